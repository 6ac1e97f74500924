package vectors

// What the tests of fetching need.
var (
	Fetch, Fetched       = fetch, fetched
	Module, Version, Sum = module, version, sum
)
