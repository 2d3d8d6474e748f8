# narfs as a Nix package: `callPackage ./package.nix { }` with nixpkgs 25.11 or newer (Rust 1.90).
#
# RocksDB is compiled from the sources in the crate librocksdb-sys, the version that narfs is tested with,
# which takes some twenty minutes on two cores; ROCKSDB_LIB_DIR could name another. The tests are not run
# here, since they need root, /dev/fuse and the Nix of the machine.
#
# Never built with nixpkgs so far; tests/system evaluates it with a stand-in.
{
  lib,
  rustPlatform,
  runtimeShell,
  stdenv,
}:

rustPlatform.buildRustPackage {
  pname = "narfs";
  version = (lib.importTOML ../../Cargo.toml).workspace.package.version;

  src = lib.fileset.toSource {
    root = ../..;
    fileset = lib.fileset.unions [
      ../../Cargo.toml
      ../../Cargo.lock
      ../../Makefile
      ../../README.md
      ../../CHANGELOG.md
      ../../LICENSE
      ../../bench
      ../../docs
      ../../mount-helper
      ../../src
      ../../systemd
    ];
  };
  cargoLock.lockFile = ../../Cargo.lock;

  # libclang, for the bindings of RocksDB.
  nativeBuildInputs = [ rustPlatform.bindgenHook ];

  cargoBuildFlags = [
    "--package=narfs"
    "--package=mount-narfs"
  ];
  doCheck = false;

  postPatch = "patchShebangs systemd";

  # Below another root, since mount.narfs goes to /sbin whatever PREFIX is. NixOS makes its units by
  # module.nix; those that are installed are for other systems.
  installPhase = ''
    runHook preInstall
    mkdir -p target/release
    cp target/${stdenv.hostPlatform.rust.cargoShortTarget}/release/{narfs,mount-narfs} target/release/
    make install SHELL=${runtimeShell} PREFIX=$out DESTDIR=$PWD/target/root
    rm -f target/root$out/share/doc/narfs/installed-files
    mkdir -p $out
    cp -a target/root$out/. target/root/sbin $out/
    runHook postInstall
  '';

  meta = {
    description = "Mounts a Nix store that you have not downloaded: verified, deduplicated, read-only";
    homepage = "https://github.com/narfs/narfs";
    license = lib.licenses.mit;
    mainProgram = "narfs";
    platforms = lib.platforms.linux;
  };
}
