package table_test

// differences is where the vocabulary is meant not to be AWS's.
var differences = []difference{
	{"CreateGrant", "no such operation", "grants come with access: rules of who may use a key"},
	{"ListGrants", "no such operation", "as CreateGrant"},
	{"ListRetirableGrants", "no such operation", "as CreateGrant"},
	{"RetireGrant", "no such operation", "as CreateGrant"},
	{"RevokeGrant", "no such operation", "as CreateGrant"},
	{"GetKeyPolicy", "no such operation", "policies come with access: until then every key has AWS's default policy"},
	{"ListKeyPolicies", "no such operation", "as GetKeyPolicy"},
	{"PutKeyPolicy", "no such operation", "as GetKeyPolicy"},

	{"*.CustomerMasterKeySpec", "has ECC_NIST_EDWARDS25519 ML_DSA_44 ML_DSA_65 ML_DSA_87 ML_KEM_512 ML_KEM_768 ML_KEM_1024 of its own",
		"AWS keeps the deprecated twin of KeySpec at the specs of 2021; here it mirrors KeySpec, because an answer without it breaks clients that read it"},
	{"*.CiphertextForRecipient", "missing", "Recipient is refused: there is no recipient to answer"},
	{"RecipientInfo.AttestationDocument", "required: true, not false", "an empty structure could not be told from an absent one, and would be ignored"},
	{"RecipientInfo.KeyEncryptionAlgorithm", "text, not enum", "the whole structure is refused, whatever it says"},
	{"KeyMetadata.CloudHsmClusterId", "missing", "no key is in a custom key store"},
	{"KeyMetadata.CustomKeyStoreId", "missing", "no key is in a custom key store"},
	{"KeyMetadata.XksKeyConfiguration", "missing", "no key is in a custom key store"},

	{"GetKeyLastUsageResponse.UsageCounts", "a member of our own", "how often a key is used for what is counted anyway; AWS's clients ignore what they do not know"},

	{"CustomKeyStoresListEntry.CloudHsmClusterId", "missing", "there are no custom key stores: DescribeCustomKeyStores lists none"},
	{"CustomKeyStoresListEntry.ConnectionErrorCode", "missing", "there are no custom key stores"},
	{"CustomKeyStoresListEntry.ConnectionState", "missing", "there are no custom key stores"},
	{"CustomKeyStoresListEntry.TrustAnchorCertificate", "missing", "there are no custom key stores"},
	{"CustomKeyStoresListEntry.XksProxyConfiguration", "missing", "there are no custom key stores"},
	{"*.KeyStorePassword", "not secret", "the operation is refused, and records do not show the member"},
	{"XksProxyAuthenticationCredentialType.AccessKeyId", "not secret", "the operation is refused, and records do not show the member"},
	{"XksProxyAuthenticationCredentialType.RawSecretAccessKey", "not secret", "the operation is refused, and records do not show the member"},
	{"*.CloudHsmClusterId", `pattern "cluster-[2-7a-zA-Z]{11,16}", not ""`, "the newest model has it"},
	{"*.XksProxyVpcEndpointServiceName",
		`pattern "^(com|eu)\\.amazonaws\\.vpce\\.([a-z]+-){2,3}\\d+\\.vpce-svc-[0-9a-z]+$", not "^com\\.amazonaws\\.vpce\\.([a-z]+-){2,3}\\d+\\.vpce-svc-[0-9a-z]+$"`, "the newest model has it"},

	{"*.CiphertextBlob", "required: false, not true", "the newest model lets a dry run of access go without"},
	{"GetParametersForImportResponse.PublicKey", "not secret", "a public key is none: AWS's model shares the type of plaintexts"},
	{"ListAliasesRequest.Limit", "1 to 100, not 1 to 1000", "what AWS's page of the operation says, and its service does"},
	{"ListResourceTagsRequest.Limit", "1 to 50, not 1 to 1000", "what AWS's page of the operation says, and its service does"},
	{"*Region", `pattern "^([a-z]+-){1,3}\\d+$", not "^([a-z]+-){2,3}\\d+$"`, "rack-1, the region of every appliance, has one word less than AWS's; clients take any host label for a region"},
}
