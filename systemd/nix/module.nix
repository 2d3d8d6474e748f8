# NixOS module: services.narfs mounts a lazily fetched Nix store.
#
#   services.narfs = {
#     enable = true;
#     settings.from = [ "https://cache.nixos.org" ];
#     settings.mount.budget = "20G";
#   };
#
# On NixOS, /nix is the store that the machine itself runs from. A mount over it would hide every program,
# systemd included, so narfs is mounted elsewhere, and whoever wants the programs in it sees it at /nix:
#
#   podman run -v /srv/narfs:/nix:ro,rslave IMAGE /nix/store/HASH-hello-2.12.1/bin/hello
#   unshare --mount sh -c 'mount --bind /srv/narfs /nix && exec /nix/store/HASH-hello-2.12.1/bin/hello'
#   systemd.services.NAME.serviceConfig.RootDirectory = "/an/empty/root";
#   systemd.services.NAME.serviceConfig.BindReadOnlyPaths = [ "/srv/narfs:/nix" ];
#
# The units are those in systemd/ of the source, and tests/system compares them directive by directive.
# Their mount outlives the daemon: systemd keeps the FUSE connection (FileDescriptorStorePreserve, systemd
# 254 or newer), so a `nixos-rebuild switch` that changes narfs is not noticed in the mount. The default
# of NotifyAccess for Type=notify, main, is right, since the daemon itself sends the connection.
#
# Never run on NixOS so far: tests/system evaluates it with a stand-in for nixpkgs, and flake.nix has a
# test with a virtual machine.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.services.narfs;
  inherit (cfg.settings) state;
  toml = pkgs.formats.toml { };
  configFile = toml.generate "narfs-config.toml" cfg.settings;
  narfs = "${cfg.package}/bin/narfs";
  isMount = cfg.mountPoint != null;
  # The service whose daemon owns the state.
  daemon = if isMount then "narfs.service" else "narfs-daemon.service";

  # Do not add settings that give these units their own mount namespace, since the mounts would be visible
  # only within the unit: PrivateMounts, PrivateTmp, PrivateNetwork, ProtectSystem, ProtectHome, ProtectProc,
  # ProtectControlGroups, ProtectKernelTunables, ReadOnlyPaths and similar.
  daemonConfig = {
    Type = "notify";
    # 75 means that the mounts wait for the next daemon.
    Restart = "always";
    RestartForceExitStatus = 75;
    SuccessExitStatus = 75;
    RestartSec = "100ms";
    RestartSteps = 4;
    RestartMaxDelaySec = "500ms";
    FileDescriptorStoreMax = 16;
    FileDescriptorStorePreserve = "yes";
    WatchdogSec = 60;
    TimeoutStopSec = 20;
    LimitNOFILE = 65536;

    NoNewPrivileges = "yes";
    CapabilityBoundingSet = "CAP_SYS_ADMIN CAP_DAC_READ_SEARCH CAP_SYS_PTRACE";
    RestrictNamespaces = "yes";
    RestrictAddressFamilies = "AF_UNIX AF_INET AF_INET6";
    RestrictRealtime = "yes";
    RestrictSUIDSGID = "yes";
    LockPersonality = "yes";
    MemoryDenyWriteExecute = "yes";
    ProtectClock = "yes";
    ProtectHostname = "yes";
    SystemCallArchitectures = "native";
    SystemCallFilter = "@system-service @mount";
    SystemCallErrorNumber = "EPERM";
    UMask = "0022";
  };

  # A daemon goes on with a changed unit, program or configuration; its mounts stay.
  daemonUnit = {
    documentation = [
      "man:narfs(1)"
      "https://github.com/narfs/narfs"
    ];
    wantedBy = [ "multi-user.target" ];
    restartTriggers = [ configFile ];
    # One restart with the new unit, not a stop with the old one and a start.
    stopIfChanged = false;
    # Programs in the mount wait for the daemon, however often it fails.
    startLimitIntervalSec = 0;
  };
in
{
  options.services.narfs = {
    enable = lib.mkEnableOption "narfs, a lazily fetched, deduplicated Nix store";

    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.narfs or (pkgs.callPackage ./package.nix { });
      defaultText = lib.literalExpression "pkgs.narfs";
      description = "The package of narfs.";
    };

    mountPoint = lib.mkOption {
      type = lib.types.nullOr lib.types.path;
      default = "/srv/narfs";
      description = ''
        Where the store is mounted. It cannot be `/nix`, which the machine runs from. With `null` nothing
        is mounted, and `narfs-daemon.service` waits for mounts that `fileSystems` makes, of
        `device = "/var/lib/narfs"` with `fsType = "narfs"` and
        `options = [ "ro" "_netdev" "nofail" "x-systemd.after=narfs-daemon.service" ]`.
      '';
    };

    settings = lib.mkOption {
      default = { };
      description = ''
        The configuration, {file}`/etc/narfs/config.toml`; narfs-config(5) and `narfs config example` have all
        options. Do not write passwords here, since everybody can read the file: `netrc-file` names another.
      '';
      example = lib.literalExpression ''
        {
          from = [ "http://cache.lan" "https://cache.nixos.org" ];
          trusted-public-keys = [ "cache.lan-1:…" ];
          mount.budget = "20G";
          mount.prefetch = "closure";
        }
      '';
      type = lib.types.submodule {
        freeformType = toml.type;
        options = {
          state = lib.mkOption {
            type = lib.types.path;
            default = "/var/lib/narfs";
            description = "Directory of the database; one process owns it at a time.";
          };
          from = lib.mkOption {
            type = lib.types.listOf lib.types.str;
            default = [ "https://cache.nixos.org" ];
            description = ''
              Binary caches, as `file:///DIRECTORY`, `http://…` or `https://…`, used by their priority. An
              empty list uses none: a mount shows only what the state has.
            '';
          };
          trusted-public-keys = lib.mkOption {
            type = lib.types.listOf lib.types.str;
            default = [ ];
            description = "Trusted keys besides that of cache.nixos.org, as `NAME:BASE64`.";
          };
          mount.budget = lib.mkOption {
            type = lib.types.either lib.types.str lib.types.ints.positive;
            default = "none";
            example = "20G";
            description = "Limit of stored contents that were fetched: `20G`, a number of bytes, or `none`.";
          };
        };
      };
    };

    gc = {
      enable = lib.mkEnableOption "the collection of garbage of the narfs store";
      dates = lib.mkOption {
        type = lib.types.str;
        default = "weekly";
        description = "When garbage is collected, in the format of systemd.time(7).";
      };
      olderThan = lib.mkOption {
        type = lib.types.str;
        default = "30d";
        description = "Age from which generations of profiles are deleted before; the current ones stay.";
      };
    };

    http = {
      enable = lib.mkEnableOption "metrics for Prometheus, status and health of narfs over HTTP";
      address = lib.mkOption {
        type = lib.types.str;
        default = "127.0.0.1:9464";
        description = "Address of the socket; everybody who can connect may read all of it.";
      };
    };

    volumePlugin.enable = lib.mkEnableOption "closure views as volumes of podman and docker";

    nixSocket.enable = lib.mkEnableOption "the worker socket, at which Nix uses the narfs store";
  };

  config = lib.mkIf cfg.enable {
    assertions =
      lib.optional isMount {
        assertion =
          !(builtins.elem cfg.mountPoint [
            "/"
            "/nix"
          ])
          && !(lib.hasPrefix "/nix/" cfg.mountPoint);
        message = ''
          services.narfs.mountPoint is ${toString cfg.mountPoint}, but this machine runs from its own /nix,
          which the mount would hide. Choose another directory, such as /srv/narfs, and bind it to /nix in
          containers.
        '';
      }
      ++ [
        {
          assertion = !isMount || !(lib.hasPrefix "${toString cfg.mountPoint}/" "${state}/");
          message = "services.narfs.settings.state, ${state}, lies in the mount point, which would hide it.";
        }
      ];

    environment.systemPackages = [ cfg.package ];
    environment.etc."narfs/config.toml".source = configFile;
    # mount(8) and systemd find mount.narfs there.
    system.fsPackages = [ cfg.package ];
    boot.kernelModules = [ "fuse" ];

    systemd.tmpfiles.rules = [ "d ${state} 0755 root root -" ];

    systemd.services.narfs = lib.mkIf isMount (
      daemonUnit
      // {
        description = "narfs, a deduplicated Nix store at ${cfg.mountPoint}";
        after = [
          "local-fs.target"
          "network.target"
        ];
        # Stopped after the mounts that it serves: umount(8) would wait for it.
        before = [ "remote-fs.target" ];
        serviceConfig = daemonConfig // {
          ExecStartPre = "${pkgs.coreutils}/bin/mkdir -p ${cfg.mountPoint}";
          ExecStart = "${narfs} mount ${cfg.mountPoint} --foreground";
          # 0 means that the mount is gone, 78 that something else is at the mount point.
          RestartPreventExitStatus = "0 78";
        };
      }
    );

    systemd.services.narfs-daemon = lib.mkIf (!isMount) (
      daemonUnit
      // {
        description = "narfs, the daemon of mounts of a deduplicated Nix store";
        after = [ "network.target" ];
        before = [ "remote-fs.target" ];
        conflicts = [ "narfs.service" ];
        unitConfig.RequiresMountsFor = builtins.dirOf state;
        serviceConfig = daemonConfig // {
          ExecStart = "${narfs} daemon";
        };
      }
    );

    systemd.services.narfs-gc = lib.mkIf cfg.gc.enable {
      description = "Collect what no root of the narfs store reaches";
      documentation = [ "man:narfs-gc(1)" ];
      after = [ daemon ];
      unitConfig.ConditionPathExists = "${state}/format";
      serviceConfig = {
        Type = "oneshot";
        ExecStart = "${narfs} gc --delete-older-than ${cfg.gc.olderThan}";
        Nice = 10;
        IOSchedulingClass = "idle";

        NoNewPrivileges = "yes";
        CapabilityBoundingSet = "CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_SYS_PTRACE";
        PrivateNetwork = "yes";
        PrivateDevices = "yes";
        ProtectSystem = "strict";
        ReadWritePaths = state;
        ProtectHome = "read-only";
        ProtectKernelTunables = "yes";
        ProtectKernelModules = "yes";
        ProtectKernelLogs = "yes";
        ProtectControlGroups = "yes";
        ProtectClock = "yes";
        ProtectHostname = "yes";
        RestrictNamespaces = "yes";
        RestrictAddressFamilies = "AF_UNIX";
        RestrictRealtime = "yes";
        RestrictSUIDSGID = "yes";
        LockPersonality = "yes";
        MemoryDenyWriteExecute = "yes";
        SystemCallArchitectures = "native";
        SystemCallFilter = "@system-service";
        SystemCallErrorNumber = "EPERM";
      };
    };

    systemd.timers.narfs-gc = lib.mkIf cfg.gc.enable {
      description = "Collect garbage of the narfs store";
      documentation = [ "man:narfs-gc(1)" ];
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnCalendar = cfg.gc.dates;
        RandomizedDelaySec = "2h";
        Persistent = "yes";
      };
    };

    # Queries the daemon over the control socket, where every user may make these requests and no others.
    systemd.services.narfs-http = lib.mkIf cfg.http.enable {
      description = "narfs over HTTP";
      documentation = [
        "man:narfs-serve(1)"
        "https://github.com/narfs/narfs"
      ];
      requires = [ "narfs-http.socket" ];
      after = [ "narfs-http.socket" ];
      serviceConfig = {
        Type = "notify";
        ExecStart = "${narfs} serve --idle-timeout 60";
        User = "narfs";
        Group = "narfs";
        Restart = "on-failure";
        RestartSec = 1;
        TimeoutStopSec = 10;
        MemoryMax = "64M";
        TasksMax = 64;
        LimitNOFILE = 1024;

        # The listening socket is passed by systemd, so an empty network namespace does not prevent answers.
        PrivateNetwork = "yes";
        IPAddressDeny = "any";
        RestrictAddressFamilies = "AF_UNIX";
        NoNewPrivileges = "yes";
        CapabilityBoundingSet = "";
        AmbientCapabilities = "";
        PrivateUsers = "yes";
        PrivateDevices = "yes";
        DevicePolicy = "closed";
        PrivateTmp = "yes";
        PrivateIPC = "yes";
        PrivateMounts = "yes";
        ProtectSystem = "strict";
        ProtectHome = "yes";
        ProtectProc = "invisible";
        ProcSubset = "pid";
        ProtectKernelTunables = "yes";
        ProtectKernelModules = "yes";
        ProtectKernelLogs = "yes";
        ProtectControlGroups = "yes";
        ProtectClock = "yes";
        ProtectHostname = "yes";
        RestrictNamespaces = "yes";
        RestrictRealtime = "yes";
        RestrictSUIDSGID = "yes";
        RemoveIPC = "yes";
        LockPersonality = "yes";
        MemoryDenyWriteExecute = "yes";
        KeyringMode = "private";
        SystemCallArchitectures = "native";
        SystemCallFilter = [
          "@system-service"
          "~@privileged @resources"
        ];
        SystemCallErrorNumber = "EPERM";
        UMask = "0077";
      };
    };

    systemd.sockets.narfs-http = lib.mkIf cfg.http.enable {
      description = "Metrics, status and health of narfs over HTTP";
      documentation = [ "man:narfs-serve(1)" ];
      wantedBy = [ "sockets.target" ];
      socketConfig = {
        ListenStream = cfg.http.address;
        FileDescriptorName = "http";
        Accept = "no";
        # Connections wait while the service starts.
        Backlog = 128;
      };
    };

    systemd.sockets.narfs-plugin = lib.mkIf cfg.volumePlugin.enable {
      description = "narfs, closure views as volumes of container engines";
      documentation = [
        "man:narfs(1)"
        "https://github.com/narfs/narfs"
      ];
      wantedBy = [
        "sockets.target"
        daemon
      ];
      socketConfig = {
        ListenStream = "/run/docker/plugins/narfs.sock";
        FileDescriptorName = "plugin";
        Service = daemon;
        SocketMode = "0600";
        DirectoryMode = "0755";
      };
    };

    systemd.sockets.narfs-nix = lib.mkIf cfg.nixSocket.enable {
      description = "narfs, a store for Nix";
      documentation = [
        "man:narfs(1)"
        "https://github.com/narfs/narfs"
      ];
      wantedBy = [
        "sockets.target"
        daemon
      ];
      socketConfig = {
        ListenStream = "/run/narfs/nix.sock";
        FileDescriptorName = "nix";
        Service = daemon;
        SocketMode = "0666";
        DirectoryMode = "0755";
      };
    };

    users.users.narfs = lib.mkIf cfg.http.enable {
      isSystemUser = true;
      group = "narfs";
      description = "narfs over HTTP";
    };
    users.groups.narfs = lib.mkIf cfg.http.enable { };
  };
}
