# narfs for Nix and NixOS.
#
#   nix build 'github:narfs/narfs?dir=systemd/nix'             the program
#   nix build 'git+file:.?dir=systemd/nix'                     the same from a clone
#   nix profile install 'github:narfs/narfs?dir=systemd/nix'   the same in a profile
#
# and in the flake of a NixOS machine:
#
#   inputs.narfs.url = "github:narfs/narfs?dir=systemd/nix";
#   …
#   modules = [ narfs.nixosModules.default { services.narfs.enable = true; } ];
#
# module.nix says what the options are, and why narfs is not mounted at /nix there; package.nix says what
# the build takes. Without flakes: `pkgs.callPackage …/systemd/nix/package.nix { }`, and `imports = [
# …/systemd/nix/module.nix ]`.
#
# Never evaluated with nixpkgs so far, and neither built nor run: tests/system evaluates all of it with a
# stand-in. There is no flake.lock; `nix flake lock` makes one.
{
  description = "Mounts a Nix store that you have not downloaded";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forEach = make: nixpkgs.lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
    in
    {
      packages = forEach (pkgs: rec {
        narfs = pkgs.callPackage ./package.nix { };
        default = narfs;
      });

      overlays.default = final: prev: { narfs = final.callPackage ./package.nix { }; };

      nixosModules.default = ./module.nix;

      # `nix flake check`, which needs KVM: a program from a binary cache that was made in the machine.
      checks = forEach (pkgs: {
        package = self.packages.${pkgs.stdenv.hostPlatform.system}.narfs;
        nixos = pkgs.testers.runNixOSTest {
          name = "narfs";
          nodes.machine = {
            imports = [ self.nixosModules.default ];
            services.narfs.enable = true;
            services.narfs.settings.from = [ "file:///var/cache/store" ];
            services.narfs.settings.require-sigs = false;
            environment.systemPackages = [ pkgs.hello ];
          };
          testScript = ''
            machine.wait_for_unit("narfs.service")
            copy = "nix --extra-experimental-features nix-command copy --to file:///var/cache/store"
            machine.succeed(copy + " ${pkgs.hello}")
            hello = "unshare --mount sh -c 'mount --bind /srv/narfs /nix && exec ${pkgs.hello}/bin/hello'"
            machine.wait_until_succeeds(hello)
            machine.succeed("systemctl restart narfs.service")
            machine.succeed(hello)
            machine.succeed("narfs umount /srv/narfs")
          '';
        };
      });
    };
}
