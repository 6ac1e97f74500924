package main

import (
	"flag"
	"strconv"

	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/protocol/client"
)

// keyLastUsageCommand is kms:GetKeyLastUsage.
var keyLastUsageCommand = command{
	name: "key last-usage", args: "KEY", short: "when a key was last used, and how often for what",
	long: `
Prints the last time that a key was used with success, for which operation, the
id of that event in the audit log, and how often the key was used for what since
tracking began. KEY is a key id, an ARN or an alias. A key that was not used shows
no more than when it was made and since when uses are known of. What was refused,
dry runs and what only reads about the key do not count; a ReEncrypt counts for
both of its keys.`,
	examples: []string{"keyrack key last-usage alias/mail"},
	flags: func(fs *flag.FlagSet) action {
		format := outputFlag(fs)
		return oneWord(fs, "KEY", func(sh *shell, c *client.Client, key string) error {
			ref, err := keyOnly(c, key)
			if err != nil {
				return err
			}
			out, err := call(c, kmsapi.GetKeyLastUsage, &kmsapi.GetKeyLastUsageRequest{KeyId: ref})
			if err != nil {
				return err
			}
			return format.print(sh.out, responseJSON(kmsapi.GetKeyLastUsage.Op, out), columns(usageRows(out)))
		})
	},
}

// usageRows returns what people read of a key's use.
func usageRows(u *kmsapi.GetKeyLastUsageResponse) [][2]string {
	last := [][2]string{{"last used", "never since tracking began"}}
	if l := &u.KeyLastUsage; l.Operation != 0 {
		last = [][2]string{{"last used", timeText(int64(l.Timestamp))}, {"operation", l.Operation.String()}, {"event", l.CloudTrailEventId}}
	}
	rows := append([][2]string{{"key", u.KeyId}}, last...)
	rows = append(rows, [2]string{"created", timeText(int64(u.KeyCreationDate))}, [2]string{"tracked since", timeText(int64(u.TrackingStartDate))})
	for _, n := range u.UsageCounts {
		rows = append(rows, [2]string{n.Operation.String(), strconv.FormatInt(n.Count, 10)})
	}
	return rows
}
