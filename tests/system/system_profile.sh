# system_profile.sh OUT CACHE BASH COREUTILS HELLO: makes two systems as NixOS has them, by real Nix, in
# a Nix root of its own below OUT, and a signed binary cache of both in OUT/cache (key: OUT/key.pub). CACHE
# is the URL of a binary cache that has the three store paths, which do the work. Says on stdout
# which store paths the systems are.
out=$1 cache=$2 bash=$3 coreutils=$4 hello=$5
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
unset NIX_PATH NIX_REMOTE NIX_USER_CONF_FILES NIX_PROFILE

# What is there already, made in the same way, is not made again.
mkdir -p "$out"
exec 9>"$out/lock"
flock 9
stamp=$(printf '%s\n' "$BASH_EXECUTION_STRING" "$@" | sha256sum)
if [ "$stamp" = "$(cat "$out/stamp" 2>/dev/null)" ]; then
    cat "$out/systems"
    exit 0
fi
rm -rf "$out/root" "$out/conf" "$out/tmp" "$out/cache" "$out/stamp"

mkdir -p "$out/root/nix" "$out/conf" "$out/tmp" /nix
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
nix copy --no-check-sigs --from "$cache" "$bash" "$coreutils" "$hello" >&2

cat >"$out/tmp/system.nix" <<'NIX'
{ bash, coreutils, hello, label, linux }:
let
  sh = builtins.storePath bash;
  tools = builtins.storePath coreutils;
  make = name: text: derivation {
    inherit name;
    system = builtins.currentSystem;
    builder = "${sh}/bin/bash";
    # Nix kills who closes stdout and stderr, as coreutils do before they end: bash is to be the last.
    args = [ "-euc" "${text}\nexit 0" ];
    PATH = "${tools}/bin";
  };
  kernel = make "linux-${linux}" "mkdir $out; echo kernel ${linux} >$out/bzImage";
  modules = make "linux-${linux}-modules" ''
    mkdir -p $out/lib/modules/${linux}; echo loop >$out/lib/modules/${linux}/modules.builtin'';
  initrd = make "initrd-linux-${linux}" "mkdir $out; echo ${modules} >$out/initrd";
  firmware = make "firmware" "mkdir -p $out/lib/firmware; echo blob >$out/lib/firmware/card.bin";
  systemd = make "systemd-255.9" ''
    mkdir -p $out/lib/systemd $out/example/systemd/system; echo 255 >$out/lib/systemd/systemd'';
  etc = make "etc" ''
    mkdir -p $out/etc/systemd; echo host >$out/etc/hostname
    ln -s ${systemd}/example/systemd/system $out/etc/systemd/system
    ln -s /etc/static/hostname $out/etc/alias'';
  path = derivation {
    name = "system-path";
    system = "builtin";
    builder = "builtin:buildenv";
    derivations = [ "true" "5" "1" hello' "true" "5" "1" tools "true" "5" "1" sh ];
    manifest = builtins.toFile "manifest" "[ ]";
  };
  hello' = builtins.storePath hello;
in make "nixos-system-host-${label}" ''
  mkdir -p $out/bin $out/specialisation
  ln -s ${kernel}/bzImage $out/kernel
  ln -s ${modules} $out/kernel-modules
  ln -s ${initrd}/initrd $out/initrd
  ln -s ${firmware}/lib/firmware $out/firmware
  ln -s ${etc}/etc $out/etc
  ln -s ${path} $out/sw
  ln -s ${systemd} $out/systemd
  echo -n ${label} >$out/nixos-version
  echo -n x86_64-linux >$out/system
  echo -n "systemd 1" >$out/init-interface-version
  echo -n "loglevel=4 quiet" >$out/kernel-params
  : >$out/extra-dependencies
  cat >$out/activate <<END
  #!${sh}/bin/bash
  systemConfig=$out
  export PATH=${tools}/bin
  echo "activating \$systemConfig with \$(cat \$systemConfig/kernel)"
  ln -sfn "\$(readlink -f "\$systemConfig")" /run/activated
  END
  cp $out/activate $out/dry-activate
  cp $out/activate $out/init
  cp $out/activate $out/bin/switch-to-configuration
  chmod 555 $out/activate $out/dry-activate $out/init $out/bin/switch-to-configuration
''
NIX

system() { # LABEL LINUX
    nix-build --no-out-link "$out/tmp/system.nix" --argstr label "$1" --argstr linux "$2" \
        --argstr bash "$bash" --argstr coreutils "$coreutils" --argstr hello "$hello"
}
{
    system 24.11.1 6.6.60
    system 24.11.2 6.12.4
} >"$out/systems"
[ -e "$out/key.sec" ] || nix-store --generate-binary-cache-key systems-1 "$out/key.sec" "$out/key.pub"
nix copy --to "file://$out/cache?secret-key=$out/key.sec" $(cat "$out/systems") >&2
echo "$stamp" >"$out/stamp"
cat "$out/systems"
