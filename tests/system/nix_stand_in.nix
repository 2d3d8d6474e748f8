# Stands in for nixpkgs, as far as the expressions in systemd/nix use it: those can be evaluated without
# it and without the network.
let
  inherit (builtins) all attrNames filter isAttrs isInt isList isString listToAttrs mapAttrs substring;

  # A type has a name, and says whether a value is of it.
  types = {
    bool = { name = "true or false"; check = builtins.isBool; };
    str = { name = "a string"; check = isString; };
    path = { name = "an absolute path"; check = v: isString v && substring 0 1 v == "/"; };
    package = { name = "a package"; check = v: isString v || v ? buildPhase || v ? pname; };
    ints.positive = { name = "a positive number"; check = v: isInt v && v > 0; };
    nullOr = type: { name = "null or ${type.name}"; check = v: v == null || type.check v; };
    either = a: b: { name = "${a.name} or ${b.name}"; check = v: a.check v || b.check v; };
    listOf = type: { name = "a list, each ${type.name}"; check = v: isList v && all type.check v; };
    submodule = module: { name = "a set"; check = isAttrs; inherit module; };
  };

  lib = {
    inherit types;
    mkOption = option: option // { _type = "option"; };
    mkEnableOption = what: lib.mkOption { type = types.bool; default = false; description = "Whether to enable ${what}."; };
    mkIf = condition: content: { _type = "if"; inherit condition content; };
    literalExpression = text: text;
    optional = condition: value: if condition then [ value ] else [ ];
    hasPrefix = prefix: text: substring 0 (builtins.stringLength prefix) text == prefix;
    importTOML = file: builtins.fromTOML (builtins.readFile file);
    genAttrs = names: make: listToAttrs (map (name: { inherit name; value = make name; }) names);
    licenses.mit = "MIT";
    platforms.linux = [ "x86_64-linux" "aarch64-linux" ];
    fileset.unions = files: files;
    fileset.toSource = { root, fileset }: assert all builtins.pathExists fileset; map toString fileset;
  };

  callPackage = file: arguments:
    let package = import file; in
    package (builtins.intersectAttrs (builtins.functionArgs package) available // arguments);

  available = {
    inherit lib;
    rustPlatform.buildRustPackage = package: package;
    rustPlatform.bindgenHook = "bindgenHook";
    runtimeShell = "/SHELL";
    stdenv.hostPlatform.rust.cargoShortTarget = "TARGET";
  };

  pkgs = {
    inherit callPackage;
    coreutils = "/COREUTILS";
    hello = "/nix/store/HASH-hello";
    formats.toml = { }: {
      type = { name = "TOML"; check = isAttrs; };
      generate = name: value: value;
    };
    stdenv.hostPlatform.system = "x86_64-linux";
    testers.runNixOSTest = test: test;
  };

  # The values of options: those that are given, else the defaults. What is given must be of the type of
  # its option, and there must be one unless the set `isOpen`.
  settle = at: isOpen: options: given:
    let unknown = filter (name: !(options ? ${name})) (attrNames given); in
    if unknown != [ ] && !isOpen then
      throw "${at}.${builtins.head unknown} is no option"
    else
      given // mapAttrs (name: option:
        let here = "${at}.${name}"; in
        if option ? _type then settleOne here option (given.${name} or option.default)
        else settle here isOpen option (given.${name} or { })
      ) options;
  settleOne = at: { type, ... }: value:
    if !(type.check value) then throw "${at} is not ${type.name}"
    else if type ? module then settle at (type.module ? freeformType) type.module.options value
    else value;

  # Resolves conditions; what is not defined then is left out.
  isDefined = value: !(isAttrs value && value._type or "" == "if" && !value.condition);
  discharge = value:
    if isList value then map discharge value
    else if !isAttrs value then value
    else if value._type or "" == "if" then discharge value.content
    else
      let defined = filter (name: isDefined value.${name}) (attrNames value); in
      lib.genAttrs defined (name: discharge value.${name});
in
{
  # The configuration of NixOS that the module makes of settings of services.narfs.
  module = given:
    let
      module = import ../../systemd/nix/module.nix { inherit config lib; pkgs = pkgs // { narfs = "/NARFS"; }; };
      config.services.narfs = settle "services.narfs" false module.options.services.narfs given;
    in
    if isDefined module.config then discharge module.config else { };

  # The names of the settings that the module knows.
  settings =
    let
      module = import ../../systemd/nix/module.nix { config = { }; inherit lib pkgs; };
    in
    mapAttrs (_: option: if option ? _type then null else attrNames option)
      module.options.services.narfs.settings.type.module.options;

  package = callPackage ../../systemd/nix/package.nix { };

  # The outputs of the flake, for one system.
  flake =
    let
      flake = import ../../systemd/nix/flake.nix;
      outputs = flake.outputs {
        self = outputs;
        nixpkgs = { inherit lib; legacyPackages = lib.genAttrs lib.platforms.linux (_: pkgs); };
      };
      system = "x86_64-linux";
    in
    {
      package = outputs.packages.${system}.default.pname;
      check = outputs.checks.${system}.package.pname;
      overlay = (outputs.overlays.default pkgs pkgs).narfs.pname;
      module = toString outputs.nixosModules.default;
      inherit (outputs.checks.${system}.nixos) testScript;
      inherit (outputs.checks.${system}.nixos.nodes.machine) services;
    };
}
