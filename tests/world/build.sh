# The builder of one derivation: copies the files of the installed $packages to $out, as
# a store path has them (usr/* on top, no hard links, no documentation), and fixes them up.
set -euo pipefail
umask 022
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=/homeless-shelter
mkdir -p "$out"

# A package also lists directories, diversions, and files that the machine's dpkg was told
# to leave out. What only root may read stays where it is.
for p in $packages; do
    dpkg-query -L "$p" | grep '^/' | while IFS= read -r f; do
        case $f in
            /usr/share/doc/* | /usr/share/doc-base/* | /usr/share/lintian/* | /usr/share/bug/*) continue ;;
            /bin | /sbin | /lib | /lib32 | /lib64 | /libx32) continue ;;
        esac
        if [ -L "$f" ]; then
            printf '%s\n' "${f#/}"
        elif [ -f "$f" ]; then
            case $(stat -c %A "$f") in ???????r??) printf '%s\n' "${f#/}" ;; esac
        fi
    done
done | sort -u >files
tar -C / --no-recursion --hard-dereference --transform='flags=r;s,^usr/,,' -cf - -T files |
    tar -C "$out" --no-same-owner --no-same-permissions -xf -

# The links that update-alternatives made to these files (vi, awk, …).
for a in /var/lib/dpkg/alternatives/*; do
    link=$(sed -n 2p "$a")
    target=$(readlink -f "$link") || continue
    link=${link#/usr/} target=${target#/usr/}
    [ -f "$out/$target" ] && [ ! -e "$out/${link#/}" ] || continue
    mkdir -p "$(dirname "$out/${link#/}")"
    ln -s "$out/$target" "$out/${link#/}"
done
if [ -f "$out/bin/bash" ]; then ln -sf bash "$out/bin/sh"; fi

perl "$fixup"

if [ -n "$propagated" ]; then
    mkdir -p "$out/nix-support"
    echo "$propagated" >"$out/nix-support/propagated-build-inputs"
fi

# Byte code, as a Python in a read-only store needs it. Nix sets every time stamp to 1.
python=$(ls -d "$out"/bin/python3.[0-9]* 2>/dev/null | grep -v config | head -n 1 || true)
if [ -n "$python" ]; then
    find "$out/lib" -name '*.py' -exec touch -d @1 {} +
    PYTHONHASHSEED=0 "$python" -I -m compileall -q -j 1 --invalidation-mode timestamp "$out"/lib/python3* >/dev/null || true
fi
