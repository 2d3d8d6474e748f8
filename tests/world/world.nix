# One derivation for each installed Debian package, or for a group of packages that need
# one another. `installed` is what dpkg-query printed, `packages` are the names to build.
{ installed, packages, salt ? "" }:
let
  inherit (builtins)
    attrNames concatMap concatStringsSep elem elemAt filter foldl' genericClosure hasAttr head isString
    length lessThan listToAttrs map mapAttrs match readFile replaceStrings sort split stringLength tail;

  pieces = separator: text: filter isString (split separator text);
  words = text: filter (w: w != "") (pieces "[ \n]+" text);
  unique = foldl' (seen: x: if elem x seen then seen else seen ++ [ x ]) [ ];
  orElse = fallback: x: if x == null then fallback else x;

  # What a package needs while it is installed or configured, not while its programs run.
  installOnly = words ''
    adduser base-files base-passwd ca-certificates cdebconf dbus debconf debconf-2.0 debianutils dpkg
    init-system-helpers install-info libc-bin libpam-runtime locales login logsave lsb-base media-types
    mime-support netbase passwd sensible-utils ssl-cert systemd systemd-sysv sysvinit-utils tzdata ucf udev
  '';

  # Scripts use these without saying so: Debian has them everywhere.
  implicit = filter (n: hasAttr n pkgs) [ "bash" "coreutils" ];

  # Packages that are one program, cut up: its parts find one another by their own place.
  group = name:
    let
      python = match "(lib)?(python3([.][0-9]+)?)(-minimal|-stdlib)?" name;
      gcc = match "(cpp|gcc|g[+][+]|libgcc|libstdc[+][+])(-[0-9]+)(-dev)?" name;
      perl = match "perl-base|perl-modules-.*|libperl5.*" name;
      part = match "(git|vim)-(man|common|runtime)" name;
    in
    if python != null then elemAt python 1
    else if gcc != null then "gcc${elemAt gcc 1}"
    else if perl != null then "perl"
    else if part != null then elemAt part 0
    else name;

  # [[alternative …] …] of a dependency field.
  needs = field:
    map (g: map (a: head (orElse [ a ] (match "[ \n]*([a-zA-Z0-9.+-]+).*" a))) (pieces "[|]" g))
      (filter (g: match "[ \n]*" g == null) (pieces "," field));

  package = line:
    let f = pieces "\t" line;
    in { name = elemAt f 0; version = elemAt f 1; depends = needs (elemAt f 2); provides = map head (needs (elemAt f 3)); };
  known = map package (filter (l: l != "") (pieces "\n" (readFile installed)));
  pkgs = listToAttrs (map (p: { inherit (p) name; value = p; }) known);
  provider = listToAttrs (concatMap (p: map (v: { name = v; value = p.name; }) p.provides) known);

  resolve = alternatives:
    let found = filter (n: n != null) (map (a: if hasAttr a pkgs then a else provider.${a} or null) alternatives);
    in if found == [ ] || elem (head found) installOnly then [ ] else [ (group (head found)) ];

  groups = foldl' (all: p: all // { ${group p.name} = all.${group p.name} or [ ] ++ [ p.name ]; }) { } known;
  edges = mapAttrs (g: members: filter (d: d != g) (unique (concatMap (m: concatMap resolve pkgs.${m}.depends) members))) groups;

  reachable = next: from:
    map (x: x.key) (genericClosure { startSet = map (key: { inherit key; }) from; operator = x: map (key: { inherit key; }) (next x.key); });

  # Groups that need one another become one: each stands for the one with the shortest name.
  below = mapAttrs (g: ds: listToAttrs (map (name: { inherit name; value = true; }) (reachable (d: edges.${d}) ds))) edges;
  peers = mapAttrs (g: set: if hasAttr g set then filter (m: hasAttr g below.${m}) (attrNames set) else [ g ]) below;
  shorter = a: b: stringLength a < stringLength b || (stringLength a == stringLength b && lessThan a b);
  leader = mapAttrs (g: ps: head (sort shorter ps)) peers;
  deps = mapAttrs (g: ps: filter (d: d != leader.${g}) (unique (map (d: leader.${d}) (concatMap (p: edges.${p}) ps)))) peers;
  closure = mapAttrs (g: ds: reachable (d: deps.${d}) ds) deps;
  base = unique (concatMap (n: [ leader.${group n} ] ++ closure.${leader.${group n}}) implicit);

  clean = s: replaceStrings [ ":" "~" ] [ "-" "-" ] s;
  build = mapAttrs
    (g: ps:
      let
        members = concatMap (p: groups.${p}) ps;
        version = pkgs.${if elem g members then g else head members}.version;
        extra = if elem g base then [ ] else filter (b: ! elem b closure.${g}) base;
      in
      derivation ({
        name = "${clean g}-${clean (elemAt (match "([0-9]+:)?(.*)" version) 1)}";
        pname = g;
        system = builtins.currentSystem;
        builder = "/bin/bash";
        args = [ ./build.sh ];
        fixup = ./fixup.pl;
        packages = members;
        propagated = map (d: build.${d}) deps.${g};
        closure = map (d: build.${d}) (closure.${g} ++ extra);
      } // (if g == "libc6" && salt != "" then { inherit salt; } else { })))
    peers;

  wanted = n: if hasAttr n pkgs then leader.${group n} else throw "the package ${n} is not installed here: apt-get install ${n}";
in
map (g: build.${g}) (unique (map wanted (words packages)))
