package kms

import (
	"maps"
	"slices"
	"strings"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
)

// TagResource gives a key of the caller's account tags, from the next request of
// every connection on: a tag whose key it has already gets the new value. (AWS KMS
// API Reference, TagResource.)
//
// Errors in the order in which they are found: ValidationException (a length),
// NotFound, also for an alias, AccessDenied, TagException (a key twice, more than
// 50 tags, a reserved key), KMSInvalidState (the key is to be deleted),
// LimitExceeded (with those that it has, it would have more than 50).
func (s *Service) TagResource(c *access.Call, in *kmsapi.TagResourceRequest, _ *kmsapi.TagResourceResponse) error {
	k, err := s.ownAdmitted(c, &in.KeyId)
	if err != nil {
		return err
	}
	if err := taggable(in.Tags); err != nil {
		return err
	}
	return s.retag(c, k, func(tags map[string]string) { tag(tags, in.Tags) })
}

// UntagResource takes tags from a key of the caller's account, from the next
// request of every connection on. Tags that it does not have are not missed. (AWS
// KMS API Reference, UntagResource.)
//
// Errors: those of TagResource but for LimitExceeded; TagException only for a
// reserved key.
func (s *Service) UntagResource(c *access.Call, in *kmsapi.UntagResourceRequest, _ *kmsapi.UntagResourceResponse) error {
	k, err := s.ownAdmitted(c, &in.KeyId)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(in.TagKeys, reservedTag) {
		return errReservedTag
	}
	return s.retag(c, k, func(tags map[string]string) {
		for _, name := range in.TagKeys {
			delete(tags, name)
		}
	})
}

// ListResourceTags returns the tags of a key of the caller's account, whatever its
// state, in the order of the bytes of their keys: 1 to 50 of them, 50 if the caller
// does not say. Tags that come or go between two pages are shown or not, each of the
// others exactly once. (AWS KMS API Reference, ListResourceTags.)
//
// Errors: NotFound, also for an alias, AccessDenied, InvalidMarker.
func (s *Service) ListResourceTags(c *access.Call, in *kmsapi.ListResourceTagsRequest, out *kmsapi.ListResourceTagsResponse) error {
	k, err := s.ownAdmitted(c, &in.KeyId)
	if err != nil {
		return err
	}
	filter := string(k.id[:])
	last, err := s.after(c, filter, in.Marker)
	if err != nil {
		return err
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(k.tags)), func(name string) bool { return name <= last })
	limit := in.Limit
	if limit == 0 {
		limit = api.ListedTags
	}
	if int64(len(names)) > limit {
		names = names[:limit]
		out.NextMarker, out.Truncated = s.marker(c, filter, names[limit-1]), true
	}
	for _, name := range names {
		out.Tags = append(out.Tags, kmsapi.Tag{TagKey: name, TagValue: k.tags[name]})
	}
	return nil
}

// taggable refuses tags that no key may have, or not in one request. AWS has a
// word of its own for each.
func taggable(tags []kmsapi.Tag) error {
	seen := make(map[string]bool, len(tags))
	for i := range tags {
		name := tags[i].TagKey
		if seen[name] {
			return api.Errorf(api.KindTag, "Duplicate tag keys: that of tag %d was given before", i+1)
		}
		seen[name] = true
	}
	if len(tags) > api.MaxTags {
		return api.Errorf(api.KindTag, "Too many tags: a key has at most %d", api.MaxTags)
	}
	if slices.ContainsFunc(tags, func(t kmsapi.Tag) bool { return reservedTag(t.TagKey) }) {
		return errReservedTag
	}
	return nil
}

// reservedTag reports whether AWS keeps a tag's key for itself: in whatever case.
func reservedTag(name string) bool {
	const reserved = "aws:"
	return len(name) >= len(reserved) && strings.EqualFold(name[:len(reserved)], reserved)
}

var errReservedTag = &api.Error{Kind: api.KindTag, Message: "Tags beginning with aws: are reserved"}

// tag adds to a key's tags.
func tag(tags map[string]string, more []kmsapi.Tag) {
	for i := range more {
		tags[more[i].TagKey] = more[i].TagValue
	}
}

// retag changes the tags of k as they stand in the transaction: change may be
// called several times, each time with a copy that is its own.
func (s *Service) retag(c *access.Call, k *key, change func(tags map[string]string)) error {
	if err := c.Need(work.Store); err != nil {
		return err
	}
	return c.Update(s.store, func(tx keystore.Tx) error {
		return s.changeKey(tx, k, func(r *keyRow) error {
			if err := keptStates.refuse(k.arn, r.State); err != nil {
				return err
			}
			old, err := readTags(tx, k.id, r.Tags)
			if err != nil {
				return err
			}
			tags := make(map[string]string, len(old))
			maps.Copy(tags, old)
			change(tags)
			if len(tags) > api.MaxTags {
				return api.Errorf(api.KindLimitExceeded, "%s would have %d tags, and no key may have more than %d", k.arn, len(tags), api.MaxTags)
			}
			if maps.Equal(old, tags) {
				return nil
			}
			r.Tags = uint16(len(tags))
			return putTags(tx, k.id, tags)
		})
	})
}
