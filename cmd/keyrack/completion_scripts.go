package main

// scripts are what shells run, by the shell's name. They ask the binary that is
// completed, so that they never need to change with it.
var scripts = map[string]string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}

// bashScript takes the words from the line itself: bash breaks its own at = and :, and
// replaces only what stands behind the last of them.
const bashScript = `# bash completion of keyrack, made by: keyrack completion bash
_keyrack() {
	local line=${COMP_LINE:0:COMP_POINT} words current value broken word about IFS=$' \t\n'
	read -ra words <<<"$line"
	if [[ $line == *[[:space:]] ]]; then words+=(""); fi
	current=${words[${#words[@]}-1]}
	value=$current
	if [[ $current == -*=* ]]; then value=${current#*=}; fi
	broken=
	if [[ $current == *[=:]* ]]; then broken=${current%"${current##*[=:]}"}; fi
	COMPREPLY=()
	while IFS=$'\t' read -r word about; do
		case $word in
		:files) compopt -o filenames 2>/dev/null; mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -f -- "$value") ;;
		:dirs) compopt -o filenames 2>/dev/null; mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -d -- "$value") ;;
		*) COMPREPLY+=("${word#"$broken"}") ;;
		esac
	done < <("$1" __complete "${words[@]:1}" 2>/dev/null)
}
complete -F _keyrack keyrack
`

// zshScript works as a file of fpath, and where it is sourced.
const zshScript = `#compdef keyrack
# zsh completion of keyrack, made by: keyrack completion zsh
_keyrack() {
	local line
	local -a found
	for line in "${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
		case $line in
		'') ;;
		:files*) compset -P '-*='; _files ;;
		:dirs*) compset -P '-*='; _files -/ ;;
		*) found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}") ;;
		esac
	done
	if (( $#found )); then _describe -t words keyrack found; fi
}
if [[ ${funcstack[1]} == _keyrack ]]; then _keyrack "$@"; else compdef _keyrack keyrack; fi
`

// fishScript shows what help says beside each candidate.
const fishScript = `# fish completion of keyrack, made by: keyrack completion fish
function __keyrack_complete
	set -l typed (commandline -opc)
	set -l current (commandline -ct)
	for line in ($typed[1] __complete $typed[2..-1] "$current" 2>/dev/null)
		switch $line
			case ':files*'
				__fish_complete_path (string replace -r -- '^-[^=]*=' '' "$current")
			case ':dirs*'
				__fish_complete_directories (string replace -r -- '^-[^=]*=' '' "$current")
			case '*'
				printf '%s\n' $line
		end
	end
end
complete -c keyrack -f -a '(__keyrack_complete)'
`
