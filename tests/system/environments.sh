# environments.sh OUT CACHE PACKAGE…: makes packages that overlap, and generations of them by real
# nix-env and nix profile, in a Nix root of its own below OUT. CACHE is the URL of a binary
# cache that has the PACKAGEs, which take part. Says on stdout what it made, see environments.rs.
out=$1 cache=$2
shift 2
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
unset NIX_PATH NIX_REMOTE NIX_USER_CONF_FILES NIX_PROFILE

# What is there already, made in the same way, is not made again.
mkdir -p "$out"
exec 9>"$out/lock"
flock 9
stamp=$(printf '%s\n' "$BASH_EXECUTION_STRING" "$@" | sha256sum)
if [ "$stamp" = "$(cat "$out/stamp" 2>/dev/null)" ]; then
    cat "$out/report"
    exit 0
fi
rm -rf "$out/root" "$out/conf" "$out/tmp" "$out/src" "$out/stamp"

mkdir -p "$out/root/nix" "$out/conf" "$out/tmp" "$out/src" /nix
export NIX_CONF_DIR=$out/conf HOME=$out/tmp XDG_CACHE_HOME=$out/tmp XDG_CONFIG_HOME=$out/tmp TMPDIR=$out/tmp
export NIX_STATE_DIR=/nix/var/nix NIX_LOG_DIR=/nix/var/log/nix NIX_STORE_DIR=/nix/store NIX_REMOTE=local
cat >"$out/conf/nix.conf" <<CONF
build-users-group =
sandbox = false
substituters =
fsync-metadata = false
keep-build-log = false
experimental-features = nix-command
CONF
mount --bind "$out/root/nix" /nix
mkdir -p /nix/var/nix/profiles
profiles=/nix/var/nix/profiles
exec 3>"$out/report" 4>&1 >&2

declare -A path
note() { # NAME PATH
    path[$1]=$2
    echo "package $1 $2" >&3
}
package() { # NAME: makes the package that the commands on stdin make
    mkdir "$out/src/$1"
    (cd "$out/src/$1" && . /dev/stdin)
    note "$1" "$(nix-store --add "$out/src/$1")"
}
full() { # PACKAGE[=PRIORITY]…: their paths
    local p
    for p; do echo "${path[${p%%=*}]}"; done
}

files() { local f; for f; do mkdir -p "$(dirname "$f")"; echo "$f" >"$f"; done; }

package foo <<'P'
files bin/foo lib/foo/deep share/doc/foo share/info/dir share/info/foo.info share/log/x .hidden
files nix-support/propagated-build-inputs bin/.wrapped manifest.nix lib/manifest.json lib/perllocal.pod
mkdir empty
ln -s foo bin/foo-alias
ln -s nowhere bin/dangling
ln -s /nonexistent/x lib/dang
ln -s ../lib/foo share/linkdir
ln -s bin/foo top
P
package bar <<'P'
files bin/bar lib/bar share/linkdir/z share/info/bar.info
P
package baz <<'P'
files bin/foo bin/baz
P
package hi <<'P'
files bin/foo
P
package prop <<'P'
files bin/prop share/x bin/foo
P
package withprop <<P
files bin/withprop
mkdir nix-support
printf '%s\n %s ' "$(full prop)" "$(full hi)" >nix-support/propagated-user-env-packages
P
package second <<P
files bin/prop bin/second
mkdir nix-support
echo "$(full withprop)" >nix-support/propagated-user-env-packages
P
package a <<'P'
files lib/x/f
P
package b <<'P'
files lib
P
package c <<'P'
echo other >lib
P
package d <<'P'
files etc/g
mkdir lib
ln -s ../etc lib/x
P
package e <<'P'
files lib/x/f lib/e
P
package f <<'P'
files lib/x/f sub/log/q
ln -s nowhere broken
P
package links <<P
ln -s "$(full foo)/share" share
ln -s "../$(basename "$(full bar)")/bin" bin
ln -s "$(full a)/lib/x/../x/." lib
ln -s "$(full bar)/bin/bar/" slash
ln -s bin/bar/x below-a-file
P
package linked <<P
files share/doc/more bin/more lib/more
P
package loop <<'P'
ln -s y x
ln -s x y
P
package self1 <<'P'
ln -s . x
P
package self2 <<'P'
files k
ln -s . x
P
package gone <<'P'
files bin/gone
mkdir nix-support
echo /nix/store/00000000000000000000000000000000-gone >nix-support/propagated-user-env-packages
P
echo text >"$out/src/file"
note file "$(nix-store --add "$out/src/file")"
ln -s "$(full bar)" "$out/src/pointer"
note pointer "$(nix-store --add "$out/src/pointer")"
nix copy --no-check-sigs --from "$cache" "$@"
note hello "$1"
note bash "$2"
note coreutils "$3"

made=0
generation() { # profile|env PACKAGE…: the generation that was just made of $1-number
    local kind=$1 link
    shift
    made=$((made + 1))
    link=$kind-name-$made
    cp -P "$profiles/$(readlink "$profiles/$kind")" "$profiles/$link"
    echo "$kind $link $*" >&3
}

# nix profile: all have priority 5. Each set is a generation of its own, and one more element.
profile() {
    rm -f $profiles/profile
    nix profile install --profile $profiles/profile $(full "$@")
    generation profile "$@"
}
profile foo
profile foo bar
profile bar foo a
profile hello
profile hello bash coreutils
profile withprop
profile second bar
profile d a
profile self1
profile links linked
profile linked links a
profile file bar
profile pointer a
nix profile install --profile $profiles/profile $(full hi foo) 2>&1 && exit 1
nix profile install --profile $profiles/profile $(full d)
generation profile pointer a d

# nix-env: packages have the priority that their derivation names.
env() {
    local p list=
    for p; do
        case $p in *=*) priority=${p#*=} ;; *) priority=5 ;; esac
        name=${p%%=*}
        list="$list { name = \"$name-1\"; type = \"derivation\"; system = builtins.currentSystem;
            outPath = builtins.storePath ${path[$name]}; outputs = [ \"out\" ]; out.outPath = builtins.storePath ${path[$name]};
            meta.priority = \"$priority\"; }"
    done
    echo "[ $list ]" >"$out/tmp/env.nix"
    nix-env --profile $profiles/env --remove-all -f "$out/tmp/env.nix" -i
}
environment() {
    env "$@"
    generation env "$@"
}
environment foo
environment foo bar
environment foo bar baz=10
environment foo bar baz=10 hi=1
environment foo hi=1 baz
environment withprop foo
environment second=1001 foo=3 baz=4
environment a b=9
environment a d
environment d=4 a
environment a=4 d
environment a f=7
environment d f=7
environment hello=2 bash coreutils=9
environment links=6 linked foo=7
environment linked=6 links
environment file bar
environment pointer a
environment prop=1001 withprop

fails() {
    if env "$@" >"$out/tmp/log" 2>&1; then echo "$* did not fail"; exit 1; fi
    echo "fails x $* : $(grep -v '^ *$' "$out/tmp/log" | tr '\n' ' ')" >&3
}
fails foo hi
fails a c=1
fails a e
fails a d b=9
fails loop
fails self1 self2
fails gone
fails prop=1000 withprop


# Small packages of few names at random, so that files, directories and links to either meet in
# every way. Which of several faults Nix finds first depends on its file system: no texts here.
names=(a b c)
RANDOM=7
random_entries() { # DEPTH
    local name
    for name in "${names[@]}"; do
        case $((RANDOM % 7)) in
            0 | 1) echo text >$name ;;
            2) ln -s ${names[RANDOM % 3]}/${names[RANDOM % 3]} $name ;;
            3) ln -s ../${names[RANDOM % 3]} $name ;;
            4 | 5)
                mkdir $name
                if [ $1 -lt 3 ]; then
                    cd $name
                    random_entries $(($1 + 1))
                    cd ..
                fi
                ;;
        esac
    done
}
for n in 0 1 2 3 4 5 6 7 8 9 10 11; do
    mkdir "$out/src/random$n"
    cd "$out/src/random$n"
    random_entries 1
    cd /
    note random$n "$(nix-store --add "$out/src/random$n")"
done
rm -f $profiles/env $profiles/env-*-link
for n in $(seq 60); do
    first=$((RANDOM % 12))
    list=()
    for i in $(seq $((2 + RANDOM % 2))); do
        list+=(random$(((first + i * 5) % 12))=$((3 + RANDOM % 4)))
    done
    if env "${list[@]}" >"$out/tmp/log" 2>&1; then
        generation env "${list[@]}"
    else
        tail -n 3 "$out/tmp/log"
        echo "refuses x ${list[*]}" >&3
    fi
done

nix-env --profile $profiles/env --rollback
nix-env --profile $profiles/env --delete-generations 3
nix-env --profile $profiles/env --list-generations >$profiles/listed

# What the commands for generations do: each, what it says, and the generations after it.
P=$profiles/numbered
op() { # set PACKAGE | rollback | switch N | delete SPEC… | age N HOURS
    local what=$1 text link
    shift
    case $what in
        set) text=$(nix-env --profile $P --set "$(full "$1")" 2>&1) || true ;;
        rollback) text=$(nix-env --profile $P --rollback 2>&1) || true ;;
        switch) text=$(nix-env --profile $P --switch-generation "$1" 2>&1) || true ;;
        delete) text=$(nix-env --profile $P --delete-generations "$@" 2>&1) || true ;;
        age) text=$(touch -h -d "-$2 hours" $P-$1-link 2>&1) ;;
    esac
    echo "op $what${*:+ $*} : ${text//$'\n'/ | }" >&3
    {
        echo -n "state $(readlink $P)"
        for link in $(ls -v -d $P-*-link); do echo -n " $(basename $link)=$(readlink $link)"; done
        echo
    } >&3
}
op set a
op set b
op set b
op set a
op rollback
op set a
op rollback
op set b
op switch 1
op rollback
op switch 99
op set c
op set d
op switch 3
op set e
op delete 4 77
op delete 3 6
op set f
op delete 1 3
op set a
op set b
op set c
op switch 8
op delete +0
op delete +2
op delete +1
op delete 10
op set d
op set e
op set f
op age 8 241
op age 9 200
op age 11 130
op age 12 70
op delete 0d
op delete 5d6
op delete x
op delete 1 old
op delete 30d
op delete 9 14
op delete 7d
op switch 9
op delete 5d
op delete 1d
op delete old
op set a
echo "$stamp" >"$out/stamp"
cat "$out/report" >&4
