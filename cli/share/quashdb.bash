# bash completion for quashdb
_quashdb() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} verb= word words
  COMPREPLY=()
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $word in
    import|search|export|backup|restore|check|stats|measure|bench|plot|compact) verb=$word; break ;;
    esac
  done
  case $previous in
    --metric) COMPREPLY=($(compgen -W 'cosine ip l2' -- "$current")); return ;;
    --rerank) COMPREPLY=($(compgen -W 'none int8 f16 f32' -- "$current")); return ;;
    --bits) COMPREPLY=($(compgen -W '1 2 3 4' -- "$current")); return ;;
    --mode) COMPREPLY=($(compgen -W 'table json csv line list markdown' -- "$current")); return ;;
    --durability) COMPREPLY=($(compgen -W 'full normal' -- "$current")); return ;;
    --kind) COMPREPLY=($(compgen -W 'recall map' -- "$current")); return ;;
  esac
  case $verb in
    import) words='-h --help --vectors --create --replace --metadata --ids --id-field --vector-field --document-field --fields --metric --bits --rerank --partition-rows' ;;
    search) words='-h --help --row -k --k --filter --columns --exact --recall --nprobe --candidates --min-score --explain --vector --id --queries' ;;
    export) words='-h --help --filter --no-vectors' ;;
    backup) words='-h --help' ;;
    restore) words='-h --help' ;;
    check) words='-h --help' ;;
    stats) words='-h --help' ;;
    measure) words='-h --help -k --k --target --sample --queries --apply' ;;
    bench) words='-h --help -k --k --queries -n --count --recall --nprobe --candidates --rerank-candidates --planes --filter' ;;
    plot) words='-h --help --kind --by' ;;
    compact) words='-h --help' ;;
    *) words='-h --help --version --readonly --follow --safe --durability --memory-budget --threads --mode --batch import search export backup restore check stats measure bench plot compact' ;;
  esac
  if [[ $current == -* ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$current"))
  else
    [[ -z $verb ]] && COMPREPLY=($(compgen -W 'import search export backup restore check stats measure bench plot compact' -- "$current"))
    mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$current")  # names with blanks
  fi
}
complete -o filenames -F _quashdb quashdb
