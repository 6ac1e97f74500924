package kms

import (
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
)

// importStates are those in which material may come to a key (AWS KMS developer guide,
// "Key states of AWS KMS keys"); for new parameters a key is not to be Updating.
var (
	importStates    = setOf(kmsapi.StateEnabled, kmsapi.StateDisabled, kmsapi.StatePendingImport, kmsapi.StateUpdating)
	parameterStates = importStates &^ setOf(kmsapi.StateUpdating)
)

// GetParametersForImport makes a wrapping key for one import into a key of origin
// EXTERNAL. Its private half is sealed in the import token and nowhere else. The tokens
// of before are good for nothing from then on. (AWS KMS API Reference,
// GetParametersForImport.)
//
// Errors in the order in which they are found: ValidationException, AccessDenied and
// NotFound, UnsupportedOperation (the key makes its own material), KMSInvalidState,
// UnsupportedOperation (a wrapping that is not offered, or not for such material).
func (s *Service) GetParametersForImport(c *access.Call, in *kmsapi.GetParametersForImportRequest, out *kmsapi.GetParametersForImportResponse) error {
	k, err := s.importing(c, &in.KeyId, parameterStates)
	if err != nil {
		return err
	}
	if err := k.wrappable(in.WrappingAlgorithm, in.WrappingKeySpec); err != nil {
		return err
	}
	if err := c.Need(work.Generate); err != nil {
		return err
	}
	row := newEpoch()
	t := &importTerms{algorithm: in.WrappingAlgorithm, spec: in.WrappingKeySpec, until: s.accepted() + api.Time(api.ImportParametersLife/time.Microsecond), epoch: row.Epoch}
	if err := s.drawWrapping(t, out); err != nil {
		return err
	}
	defer t.primes.Free()
	if out.ImportToken, err = t.token(s.importKey.Bytes(), k); err != nil {
		return s.noSecret(err)
	}
	out.KeyId, out.ParametersValidTo = k.ARN(), t.until
	return c.Update(s.store, func(tx keystore.Tx) error {
		if _, err := tx.Get(keyName(k.id)); errors.Is(err, keystore.ErrNotFound) {
			return s.noKey(k.account, k.id, k.multi)
		} else if err != nil {
			return err
		}
		return putImport(tx, k.id, row)
	})
}

// drawWrapping fills in the wrapping key of t, and its public half.
func (s *Service) drawWrapping(t *importTerms, out *kmsapi.GetParametersForImportResponse) (err error) {
	row := specOf(wrappingSpecs[t.spec])
	if t.primes, err = securemem.New(row.secret); err != nil {
		return s.noSecret(err)
	}
	securemem.Do(func() { err = row.draw(t.primes.Bytes()) })
	securemem.Do(func() {
		if err != nil {
			return
		}
		var as any
		if as, err = row.expand(t.primes.Bytes()); err == nil {
			out.PublicKey = as.(*signer).spki
		}
	})
	if err != nil {
		t.primes.Free()
		return api.Internal(fmt.Errorf("draw a wrapping key: %w", err))
	}
	return nil
}

// noSecret answers for an error of securemem.
func (s *Service) noSecret(err error) error {
	if errors.Is(err, securemem.ErrFull) {
		return s.noMemory(err)
	}
	return api.Internal(err)
}

// importing returns the caller's key that ref names, admitted, into which material can be
// imported in its state.
func (s *Service) importing(c *access.Call, ref *api.KeyRef, in states) (*key, error) {
	k, err := s.ownAdmitted(c, ref)
	if err != nil {
		return nil, err
	}
	if k.row.Origin != kmsapi.OriginExternal {
		return nil, api.Errorf(api.KindUnsupportedOperation, "%s origin is %s which is not valid for this operation.", k.arn, k.row.Origin)
	}
	return k, in.refuse(k.arn, k.row.State)
}

// wrappable refuses a wrapping that is not offered, or whose ciphertext cannot hold the
// material of k (AWS KMS developer guide, "Select a wrapping algorithm").
func (k *key) wrappable(a kmsapi.WrappingAlgorithm, spec kmsapi.WrappingKeySpec) error {
	switch how := wrappings[a]; {
	case how.hash == 0:
		return api.Errorf(api.KindUnsupportedOperation, "WrappingAlgorithm %s is not supported: use RSAES_OAEP_SHA_256 or RSA_AES_KEY_WRAP_SHA_256", a)
	case wrappingSpecs[spec] == 0:
		return api.Errorf(api.KindUnsupportedOperation, "WrappingKeySpec %s is not supported: use RSA_4096", spec)
	case how.kwp:
		return nil
	case k.row.Spec >= kmsapi.KeySpecRSA2048 && k.row.Spec <= kmsapi.KeySpecRSA4096:
		return api.Errorf(api.KindUnsupportedOperation, "WrappingAlgorithm %s cannot hold the private key of KeySpec %s: use RSA_AES_KEY_WRAP_SHA_256", a, k.row.Spec)
	case k.row.Spec == kmsapi.KeySpecECCNISTP521 && spec == kmsapi.WrappingRSA2048:
		return api.Errorf(api.KindUnsupportedOperation, "WrappingAlgorithm %s with %s cannot hold the private key of KeySpec %s: use RSA_4096, or RSA_AES_KEY_WRAP_SHA_256", a, spec, k.row.Spec)
	}
	return nil
}

// ImportKeyMaterial brings the material of a key of origin EXTERNAL, or brings it again:
// then with another end or description. A symmetric key may get new material besides,
// which waits for RotateKeyOnDemand. (AWS KMS API Reference, ImportKeyMaterial.)
//
// The import token is good for one import. What comes in it is answered by one error,
// InvalidCiphertext, unless it is key material in the right form; with eight failures
// the token ends. The material is answered only after it was read back from the store
// and gave its id.
//
// Errors in the order in which they are found: ValidationException (members that
// contradict each other, a ValidTo that is past or more than 365 days ahead),
// AccessDenied and NotFound, UnsupportedOperation (the key makes its own material),
// KMSInvalidState, UnsupportedOperation (a member that such a key has not),
// InvalidImportToken, ExpiredImportToken, InvalidCiphertext, IncorrectKeyMaterial,
// KMSInvalidState (another new material waits), LimitExceeded.
func (s *Service) ImportKeyMaterial(c *access.Call, in *kmsapi.ImportKeyMaterialRequest, out *kmsapi.ImportKeyMaterialResponse) error {
	if err := endOf(in, s.accepted().Time()); err != nil {
		return err
	}
	k, err := s.importing(c, &in.KeyId, importStates)
	if err != nil {
		return err
	}
	if err := k.takes(in); err != nil {
		return err
	}
	if err := c.Need(k.checking()); err != nil {
		return err
	}
	if _, running := s.imports.LoadOrStore(k.id, true); running { // tries are counted when they have failed
		return api.Errorf(api.KindThrottling, "another import into %s is under way; try again", k.arn)
	}
	defer s.imports.Delete(k.id)
	t, err := s.openImportToken(c, k, in.ImportToken)
	if err != nil {
		return err
	}
	defer t.primes.Free()
	id, err := s.importMaterial(c, k, t, in, out)
	switch api.KindOf(err) {
	case api.KindNone:
		return s.importedBack(c, k, id)
	case api.KindInvalidCiphertext, api.KindIncorrectKeyMaterial:
		return c.Refuse(s.store, err, func(tx keystore.Tx) error { return t.failed(tx, k.id) })
	}
	return err
}

// endOf checks the end of material that expires. Check has seen that it is there.
func endOf(in *kmsapi.ImportKeyMaterialRequest, now time.Time) error {
	if in.ExpirationModel != kmsapi.MaterialExpires {
		return nil
	}
	if end := in.ValidTo.Time(); !end.After(now) || end.After(now.Add(api.MaxMaterialLife)) {
		return api.Errorf(api.KindValidation, "ValidTo %s must be in the future, by at most 365 days", end.UTC().Format(time.RFC3339))
	}
	return nil
}

// takes refuses members that only a symmetric encryption key has.
func (k *key) takes(in *kmsapi.ImportKeyMaterialRequest) error {
	if k.row.Spec == kmsapi.KeySpecSymmetricDefault {
		return nil
	}
	var name string
	switch {
	case in.ImportType != 0:
		name = "ImportType"
	case in.KeyMaterialDescription != "":
		name = "KeyMaterialDescription"
	case in.KeyMaterialId != "":
		name = "KeyMaterialId"
	default:
		return nil
	}
	return api.Errorf(api.KindUnsupportedOperation, "%s is valid for symmetric encryption keys only: %s has KeySpec %s, whose key material cannot be changed after its first import", name, k.arn, k.row.Spec)
}

// checking returns what it takes to check material of k.
func (k *key) checking() work.Class {
	if specOf(k.row.Spec).waits == work.Generate {
		return work.Generate // primes
	}
	return work.Compute
}

// importMaterial opens what came under t, and stores it. It returns its id.
func (s *Service) importMaterial(c *access.Call, k *key, t *importTerms, in *kmsapi.ImportKeyMaterialRequest, out *kmsapi.ImportKeyMaterialResponse) ([]byte, error) {
	secret, err := t.secret(k.row.Spec, in.EncryptedKeyMaterial)
	if err == nil {
		defer secret.Free()
		err = k.sound(secret)
	}
	if errors.Is(err, securemem.ErrFull) {
		return nil, s.noMemory(err)
	}
	if err != nil {
		return nil, err
	}
	id := materialID(k.id, secret.Bytes())
	out.KeyId = k.ARN()
	if k.row.Spec == kmsapi.KeySpecSymmetricDefault {
		out.KeyMaterialId = hex.EncodeToString(id[:])
	}
	comes := importedEntry{in: in, materialEntry: materialEntry{ID: id[:], Since: s.accepted(), Import: kmsapi.Imported}}
	if in.ExpirationModel == kmsapi.MaterialExpires {
		comes.ValidTo = in.ValidTo
	}
	return id[:], c.Update(s.store, func(tx keystore.Tx) error {
		if err := t.use(tx, k.id); err != nil {
			return err
		}
		return s.changeKey(tx, k, func(r *keyRow) error {
			if err := importStates.refuse(k.arn, r.State); err != nil {
				return err
			}
			return comes.put(tx, k, r, secret.Bytes())
		})
	})
}

// use ends the token of t with the import that it was for.
func (t *importTerms) use(tx keystore.Tx, id api.KeyID) error {
	row, err := readImport(tx, id)
	if err != nil {
		return err
	}
	if !slices.Equal(row.Epoch, t.epoch) {
		return errImportToken
	}
	return tx.Delete(importName(id))
}

// failed counts a try that came to nothing, and ends the token with the last one.
func (t *importTerms) failed(tx keystore.Tx, id api.KeyID) error {
	row, err := readImport(tx, id)
	if err != nil || !slices.Equal(row.Epoch, t.epoch) {
		return err
	}
	if row.Failures++; row.Failures >= api.MaxImportFailures {
		return tx.Delete(importName(id))
	}
	return putImport(tx, id, row)
}

// importedEntry is the entry of material that comes, and how it was asked for.
type importedEntry struct {
	materialEntry
	in *kmsapi.ImportKeyMaterialRequest
}

// put adds the material to the key, or brings it back.
func (e *importedEntry) put(tx keystore.Tx, k *key, r *keyRow, secret []byte) error {
	m, err := materialsOf(tx, k.id, r)
	if err != nil {
		return err
	}
	known, err := e.known(m)
	if err != nil {
		return err
	}
	if known {
		return restoreMaterial(tx, k.id, r, e.ID, secret, func(old *materialEntry) {
			old.ValidTo = e.ValidTo
			if e.in.KeyMaterialDescription != "" {
				old.Description = e.in.KeyMaterialDescription
			}
		})
	}
	if m.in(kmsapi.MaterialPendingRotation) != nil {
		return api.Errorf(api.KindInvalidState, "%s has new key material already that waits for its rotation: rotate to it with RotateKeyOnDemand, or delete it, before other material is imported", k.arn)
	}
	e.State, e.Description = kmsapi.MaterialPendingRotation, e.in.KeyMaterialDescription
	err = addMaterial(tx, k.id, r, e.materialEntry, secret)
	if errors.Is(err, errShortTaken) {
		return incorrectMaterial("ciphertexts could not tell the key material from other material of the key: import other material")
	}
	return err
}

// known reports whether the material is one of m, and refuses what was not asked for:
// new material where the key has it, other material where it must be the same.
func (e *importedEntry) known(m materials) (bool, error) {
	found := 0
	for i := range m {
		found |= subtle.ConstantTimeCompare(m[i].ID, e.ID)
	}
	if want, err := hex.DecodeString(e.in.KeyMaterialId); err != nil || len(want) > 0 && subtle.ConstantTimeCompare(want, e.ID) != 1 {
		return false, incorrectMaterial("the key material is not that of KeyMaterialId %s", e.in.KeyMaterialId)
	}
	fresh := e.in.ImportType == kmsapi.NewKeyMaterial || e.in.ImportType == 0 && len(m) == 0
	switch {
	case fresh && found == 1:
		return false, incorrectMaterial("the key has this key material already: ImportType NEW_KEY_MATERIAL is for other material")
	case !fresh && found == 0:
		return false, incorrectMaterial("the key material is none that was imported into this key before; a symmetric encryption key takes other material with ImportType NEW_KEY_MATERIAL")
	}
	return found == 1, nil
}

// importedBack reads what was imported back from the store, which gives its id, and proves it.
func (s *Service) importedBack(c *access.Call, k *key, id []byte) error {
	stored, err := s.load(c.Context(), k.id)
	if err != nil {
		return err
	}
	if stored == nil {
		return s.noKey(k.account, k.id, k.multi)
	}
	if stored.current != nil && slices.Equal(stored.current.id[:], id) {
		return s.prove(c, stored)
	}
	_, err = s.loadMaterial(c.Context(), stored, id)
	return err
}
