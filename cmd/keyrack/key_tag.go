package main

import (
	"errors"
	"flag"
	"strings"

	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/protocol/client"
)

// The commands of what people note of a key.
var (
	// keyUpdateCommand is kms:UpdateKeyDescription.
	keyUpdateCommand = command{
		name: "key update", args: "KEY --description TEXT", short: "describe a key by another text",
		long: `
Describes a key by another text, or by none: --description "". KEY is a key id, an
ARN or an alias.`,
		examples: []string{"keyrack key update alias/mail --description archive"},
		flags:    keyUpdateFlags,
	}
	// keyTagCommand is kms:TagResource.
	keyTagCommand = command{
		name: "key tag", args: "KEY NAME=VALUE…", short: "give a key tags, or other values of those it has",
		long: `
Gives a key tags; one that it has already gets the new value. KEY is a key id, an
ARN or an alias. NAME has 1 to 128 characters and does not begin with aws:, VALUE
may be empty and has at most 256. A key may have 50 tags. They are not secret and
stand in the audit log.`,
		examples: []string{"keyrack key tag alias/mail team=mail stage=test"},
		flags:    keyTagFlags,
	}
	// keyUntagCommand is kms:UntagResource.
	keyUntagCommand = command{
		name: "key untag", args: "KEY NAME…", short: "take tags from a key",
		long: `
Takes tags from a key. KEY is a key id, an ARN or an alias. Tags that the key does
not have are not missed.`,
		examples: []string{"keyrack key untag alias/mail stage"},
		flags:    keyUntagFlags,
	}
	// keyTagsCommand is kms:ListResourceTags, all pages of it.
	keyTagsCommand = command{
		name: "key tags", args: "KEY", short: "the tags of a key",
		long: `
Prints the tags of a key as NAME=VALUE, one a line, in the order of names. KEY is a
key id, an ARN or an alias.`,
		examples: []string{"keyrack key tags alias/mail"},
		flags:    keyTagsFlags,
	}
)

// tagList is what --tag and words of the form NAME=VALUE collect. A name given
// twice is refused by the appliance, as AWS does.
type tagList []kmsapi.Tag

// String is part of flag.Value; there is no default to show.
func (l *tagList) String() string { return "" }

// Set adds a tag.
func (l *tagList) Set(s string) error {
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		return errors.New("want NAME=VALUE; NAME= gives a tag an empty value")
	}
	*l = append(*l, kmsapi.Tag{TagKey: name, TagValue: value})
	return nil
}

func keyUpdateFlags(fs *flag.FlagSet) action {
	var in kmsapi.UpdateKeyDescriptionRequest
	given := false
	fs.Func("description", "describe the key's use as `TEXT`; it is not secret and stands in the audit log", func(s string) error {
		in.Description, given = s, true
		return nil
	})
	format := outputFlag(fs)
	return oneWord(fs, "KEY", func(sh *shell, c *client.Client, key string) (err error) {
		if !given {
			return usagef("keyrack help key update", "key update: --description is missing")
		}
		if in.KeyId, err = keyOnly(c, key); err != nil {
			return err
		}
		out, err := call(c, kmsapi.UpdateKeyDescription, &in)
		if err != nil {
			return err
		}
		return format.print(sh.out, responseJSON(kmsapi.UpdateKeyDescription.Op, out), "")
	})
}

// keyAndMore takes a key and at least one word more, which the usage line calls
// name, and a client.
func keyAndMore(fs *flag.FlagSet, name string, f func(sh *shell, c *client.Client, key string, more []string) error) action {
	return func(sh *shell, words, rest []string) error {
		switch words = append(words, rest...); len(words) {
		case 0:
			return usagef("keyrack help "+fs.Name(), "%s: KEY is missing", fs.Name())
		case 1:
			return usagef("keyrack help "+fs.Name(), "%s: %s is missing", fs.Name(), name)
		}
		c, err := sh.remote()
		if err != nil {
			return err
		}
		defer c.Close()
		return f(sh, c, words[0], words[1:])
	}
}

func keyTagFlags(fs *flag.FlagSet) action {
	format := outputFlag(fs)
	return keyAndMore(fs, "NAME=VALUE", func(sh *shell, c *client.Client, key string, words []string) error {
		var tags tagList
		for _, word := range words {
			if err := tags.Set(word); err != nil {
				return usagef("keyrack help key tag", "key tag: %q: %w", word, err)
			}
		}
		ref, err := keyOnly(c, key)
		if err != nil {
			return err
		}
		out, err := call(c, kmsapi.TagResource, &kmsapi.TagResourceRequest{KeyId: ref, Tags: tags})
		if err != nil {
			return err
		}
		return format.print(sh.out, responseJSON(kmsapi.TagResource.Op, out), "")
	})
}

// keyUntagFlags refuses NAME=VALUE: AWS would look for a tag of that name, not
// find it, and say nothing.
func keyUntagFlags(fs *flag.FlagSet) action {
	format := outputFlag(fs)
	return keyAndMore(fs, "NAME", func(sh *shell, c *client.Client, key string, names []string) error {
		for _, word := range names {
			if name, _, ok := strings.Cut(word, "="); ok {
				return misused("give the tag's name alone: "+oneLine(name), "key untag: %q is no name of a tag", word)
			}
		}
		ref, err := keyOnly(c, key)
		if err != nil {
			return err
		}
		out, err := call(c, kmsapi.UntagResource, &kmsapi.UntagResourceRequest{KeyId: ref, TagKeys: names})
		if err != nil {
			return err
		}
		return format.print(sh.out, responseJSON(kmsapi.UntagResource.Op, out), "")
	})
}

func keyTagsFlags(fs *flag.FlagSet) action {
	format := outputFlag(fs)
	return oneWord(fs, "KEY", func(sh *shell, c *client.Client, key string) error {
		all, err := listTags(c, key)
		if err != nil {
			return err
		}
		var text strings.Builder
		for _, t := range all.Tags {
			text.WriteString(oneLine(t.TagKey+"="+t.TagValue) + "\n")
		}
		return format.print(sh.out, responseJSON(kmsapi.ListResourceTags.Op, all), text.String())
	})
}

// listTags returns all pages as one. Unless a key is tagged meanwhile there is one,
// because as many tags as a key may have fit on it.
func listTags(c *client.Client, key string) (*kmsapi.ListResourceTagsResponse, error) {
	ref, err := keyOnly(c, key)
	if err != nil {
		return nil, err
	}
	all := &kmsapi.ListResourceTagsResponse{}
	for marker := ""; ; {
		page, err := call(c, kmsapi.ListResourceTags, &kmsapi.ListResourceTagsRequest{KeyId: ref, Marker: marker})
		if err != nil {
			return nil, err
		}
		all.Tags = append(all.Tags, page.Tags...)
		if marker = page.NextMarker; marker == "" {
			return all, nil
		}
	}
}
