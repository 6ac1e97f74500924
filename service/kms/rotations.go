package kms

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
)

// ListKeyRotations returns the rotations of a symmetric encryption key that made the
// materials current which it has, the oldest first, or all its materials: 1 to 1000 of
// them, 100 if the caller does not say. Materials that come or go between two pages are
// shown or not, each of the others exactly once. (AWS KMS API Reference, ListKeyRotations.)
//
// Errors in the order in which they are found: NotFound, also for an alias, AccessDenied,
// UnsupportedOperation (it is no symmetric encryption key), InvalidMarker.
func (s *Service) ListKeyRotations(c *access.Call, in *kmsapi.ListKeyRotationsRequest, out *kmsapi.ListKeyRotationsResponse) error {
	k, err := s.ownAdmitted(c, &in.KeyId)
	if err != nil {
		return err
	}
	if err := k.rotates(); err != nil {
		return err
	}
	filter := string(append(k.id[:], byte(in.IncludeKeyMaterial)))
	last, err := s.after(c, filter, in.Marker)
	if err != nil {
		return err
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	m, err := s.listedMaterials(c, k)
	if err != nil {
		return err
	}
	if in.IncludeKeyMaterial != kmsapi.AllKeyMaterial {
		m = slices.DeleteFunc(m, func(e materialEntry) bool { return e.Rotation == 0 })
	}
	m = m.behind(last)
	if limit := cmp.Or(in.Limit, api.ListedRotations); int64(len(m)) > limit {
		m = m[:limit]
		out.NextMarker, out.Truncated = s.marker(c, filter, m[limit-1].position()), true
	}
	for i := range m {
		out.Rotations = append(out.Rotations, m[i].listed(k))
	}
	return nil
}

// listedMaterials reads what the store says of the materials of k.
func (s *Service) listedMaterials(c *access.Call, k *key) (m materials, err error) {
	err = s.store.View(c.Context(), func(r keystore.Reader) error {
		row, _, err := s.rowOf(r, k)
		if err == nil {
			m, err = materialsOf(r, k.id, &row)
		}
		return err
	})
	return m, err
}

// position is where an entry stands among those of its key, for a marker: when it came,
// 8 bytes big-endian, and its id.
func (e *materialEntry) position() string {
	return string(append(binary.BigEndian.AppendUint64(nil, uint64(e.Since)), e.ID...))
}

// behind returns the entries behind the one with a position: where it is gone, those that
// came later. "" is before all of them.
func (m materials) behind(position string) materials {
	if len(position) <= 8 {
		return m
	}
	at := slices.IndexFunc(m, func(e materialEntry) bool { return e.position() == position })
	if at >= 0 {
		return m[at+1:]
	}
	since := api.Time(binary.BigEndian.Uint64([]byte(position)))
	return slices.DeleteFunc(m, func(e materialEntry) bool { return e.Since <= since })
}

// listed returns what AWS tells of a material.
func (e *materialEntry) listed(k *key) kmsapi.RotationsListEntry {
	l := kmsapi.RotationsListEntry{
		KeyId: k.arn, KeyMaterialId: fmt.Sprintf("%x", e.ID), KeyMaterialState: e.State,
		RotationDate: e.Rotated, RotationType: e.Rotation,
	}
	if k.row.Origin != kmsapi.OriginExternal {
		return l
	}
	l.KeyMaterialDescription, l.ImportState, l.ValidTo = e.Description, e.Import, e.ValidTo
	l.ExpirationModel = kmsapi.MaterialDoesNotExpire
	if e.ValidTo != 0 {
		l.ExpirationModel = kmsapi.MaterialExpires
	}
	return l
}
