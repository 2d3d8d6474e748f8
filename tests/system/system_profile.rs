//! Whole systems as profiles, such as NixOS has them: made by real Nix, fetched when something
//! looks inside, and activated through links outside of the mount.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::mount::{MountFlags, mount};

use crate::on_demand::PATIENT;
use crate::support::{Sandbox, World, run, succeed};

/// Makes the systems, in a mount namespace of its own.
const SCRIPT: &str = include_str!("system_profile.sh");

/// Somebody who is not root.
const ANN: u32 = 12345;

/// Two systems and the binary cache that has them.
struct Systems {
    out: PathBuf,
    /// The full store paths of both.
    paths: Vec<String>,
}

fn systems() -> &'static Systems {
    static SYSTEMS: OnceLock<Systems> = OnceLock::new();
    SYSTEMS.get_or_init(|| {
        let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/world/systems");
        let world = World::small();
        let mut script = Command::new("unshare");
        script.args(["--mount", "--propagation", "private"]);
        script.args(["bash", "-euc", SCRIPT, "script"]);
        script.arg(&out).arg(world.url());
        let packages = ["bash", "coreutils", "hello"];
        script.args(packages.map(|name| format!("/nix/store/{}", world.package(name))));
        let paths = succeed(&mut script).lines().map(str::to_owned).collect();
        Systems { out, paths }
    })
}

impl Systems {
    /// Every name in a system, as the disk of real Nix has it or a mount shows it.
    fn names(&self, at: &Path) -> String {
        let mut find = Command::new("find");
        find.arg(at).args(["!", "-type", "d"]);
        find.args(["-printf", "%P %M %u %g %n %s %T@ -> %l\\n"]);
        let names = succeed(&mut find);
        let mut names: Vec<_> = names.lines().collect();
        names.sort_unstable();
        names.join("\n")
    }

    fn on_disk(&self, path: &str) -> PathBuf {
        let inside = path.trim_start_matches('/');
        self.out.join("root").join(inside)
    }
}

/// A mount at /nix that has nothing yet, and an empty /run and /home.
fn mounted() -> Sandbox {
    let systems = systems();
    let mut sandbox = Sandbox::empty();
    for place in ["/run", "/home"] {
        mount("none", place, "tmpfs", MountFlags::empty(), None).unwrap();
    }
    fs::create_dir_all("/nix").unwrap();
    sandbox.at = "/nix".into();
    let url = format!("file://{}/cache", systems.out.display());
    let key = fs::read_to_string(systems.out.join("key.pub")).unwrap();
    sandbox.mount_from(&[&url], key.trim(), &format!("nonempty,{PATIENT}"));
    sandbox
}

fn target(path: &str) -> String {
    let target = fs::read_link(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    target.into_os_string().into_string().unwrap()
}

fn system(sandbox: &Sandbox, arguments: &[&str]) -> String {
    sandbox.narfs(&[&["profile", "-p", "system"], arguments].concat())
}

#[test]
fn a_system_is_shown_as_nix_made_it_before_most_of_it_is_fetched() {
    let systems = systems();
    let sandbox = mounted();
    let first = &systems.paths[0];
    system(&sandbox, &["set", first]);
    let shown = "/nix/var/nix/profiles/system";
    assert_eq!(target(shown), "system-1-link");
    assert_eq!(target("/nix/var/nix/profiles/system-1-link"), *first);
    let name = first.split_once('-').unwrap().1;
    assert_eq!(name, "nixos-system-host-24.11.1");
    assert_eq!(sandbox.json(&["stats"])["paths"], 0, "nothing is fetched");
    system(&sandbox, &["link", "/run/current-system"]);
    assert_eq!(target("/run/current-system"), shown);

    let at = Path::new("/run/current-system/");
    let names = systems.names(at);
    assert_eq!(names, systems.names(&systems.on_disk(first)));
    assert!(names.lines().count() > 15, "{names}");
    assert_eq!(sandbox.json(&["stats"])["paths"], 1, "the system alone");
    let mut ls = Command::new("ls");
    ls.args(["-l", "/run/current-system/"]).env("LC_ALL", "C");
    let listed = succeed(&mut ls);
    for link in ["kernel", "kernel-modules", "initrd", "sw", "etc", "systemd"] {
        let line = format!(" {link} -> /nix/store/");
        assert!(listed.contains(&line), "{listed}");
    }
    let read = |name: &str| fs::read_to_string(at.join(name)).unwrap();
    assert_eq!(read("nixos-version"), "24.11.1");
    assert_eq!(read("kernel"), "kernel 6.6.60\n");
    assert_eq!(read("etc/hostname"), "host\n");
    assert_eq!(
        target("/run/current-system/etc/alias"),
        "/etc/static/hostname"
    );
    let before = sandbox.json(&["stats"])["paths"].as_u64().unwrap();
    let forest = systems.on_disk(&target("/run/current-system/sw"));
    assert_eq!(systems.names(&at.join("sw/")), systems.names(&forest));
    assert_eq!(sandbox.json(&["stats"])["paths"], before + 1);
    let said = succeed(&mut Command::new("/run/current-system/sw/bin/hello"));
    assert_eq!(said, "Hello, world!\n");
}

#[test]
fn a_switch_of_the_system_brings_the_old_kernel_back_and_activates_what_is_current() {
    let systems = systems();
    let sandbox = mounted();
    let [first, second] = &systems.paths[..] else {
        panic!("two systems");
    };
    let kernel = || fs::read_to_string("/run/current-system/kernel").unwrap();
    let activated = || {
        let said = succeed(&mut Command::new("/run/current-system/activate"));
        (said, target("/run/activated"))
    };
    let activating = |path: &str, linux: &str| {
        let said = format!("activating {path} with kernel {linux}\n");
        (said, path.to_owned())
    };
    system(&sandbox, &["set", first]);
    system(&sandbox, &["link", "/run/current-system"]);
    assert_eq!(kernel(), "kernel 6.6.60\n");
    assert_eq!(activated(), activating(first, "6.6.60"));
    let old_kernel = target("/run/current-system/kernel");
    let opened = fs::File::open("/run/current-system/").unwrap();

    system(&sandbox, &["set", second]);
    assert_eq!(kernel(), "kernel 6.12.4\n");
    assert_ne!(target("/run/current-system/kernel"), old_kernel);
    assert_eq!(activated(), activating(second, "6.12.4"));
    let shared = |path: &str| target(&format!("{path}/systemd"));
    assert_eq!(shared(first), shared(second));

    let said = system(&sandbox, &["rollback"]);
    assert_eq!(said, "switching profile from version 2 to 1\n");
    assert_eq!(target("/run/current-system/kernel"), old_kernel);
    assert_eq!(kernel(), "kernel 6.6.60\n");
    assert_eq!(activated(), activating(first, "6.6.60"));
    // Who had the old system open still has it, whatever is current.
    system(&sandbox, &["switch", "2"]);
    let fd = std::os::fd::AsRawFd::as_raw_fd(&opened);
    let still = fs::read_to_string(format!("/proc/thread-self/fd/{fd}/kernel"));
    assert_eq!(still.unwrap(), "kernel 6.6.60\n");
    assert_eq!(kernel(), "kernel 6.12.4\n");
    let diff = system(&sandbox, &["diff", "1", "2"]);
    assert!(diff.contains("linux: 6.6.60"), "{diff}");
    assert!(diff.contains("6.12.4"), "{diff}");
    assert!(!diff.contains("systemd"), "{diff}");
}

#[test]
fn a_link_is_made_for_another_user_who_may_use_and_replace_it() {
    let sandbox = mounted();
    let hello = systems().paths[0].clone();
    let ann = "per-user/ann/profile";
    sandbox.narfs(&["profile", "-p", ann, "set", &hello]);
    fs::create_dir("/home/ann").unwrap();
    chown("/home/ann", Some(ANN), Some(ANN)).unwrap();
    let place = "/home/ann/.nix-profile";
    let link = |more: &[&str]| {
        let arguments = [&["profile", "-p", ann, "link"], more].concat();
        sandbox.narfs(&arguments)
    };
    let to = "/nix/var/nix/profiles/per-user/ann/profile";
    let would = link(&[place, "--dry-run"]);
    assert_eq!(would, format!("{place} would lead to {to}\n"));
    assert!(!Path::new(place).is_symlink());
    let said = link(&[place]);
    assert_eq!(said, format!("{place} leads to {to} now\n"));
    let inode = || fs::symlink_metadata(place).unwrap().ino();
    let before = inode();
    let said = link(&[place]);
    assert_eq!(said, format!("{place} leads to {to} already\n"));
    assert_eq!(inode(), before, "a right link is left alone");
    let report = link(&[place, "--json", "--check"]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["target"], to);
    assert_eq!(report["changed"], false);
    let as_ann = |script: &str| {
        let mut ran = Command::new("setpriv");
        let ids = [format!("--reuid={ANN}"), format!("--regid={ANN}")];
        ran.args(ids)
            .args(["--clear-groups", "--inh-caps=-all", "sh", "-ec", script]);
        ran.env("HOME", "/home/ann");
        succeed(&mut ran)
    };
    let chain = as_ann(
        "readlink ~/.nix-profile; readlink \"$(readlink ~/.nix-profile)\"; \
         cat ~/.nix-profile/nixos-version",
    );
    assert_eq!(chain, format!("{to}\nprofile-1-link\n24.11.1"));
    as_ann("ln -sfn elsewhere ~/.nix-profile");
    let owner = || fs::symlink_metadata(place).unwrap().uid();
    assert_eq!(owner(), ANN);
    let complaint = sandbox.complaint(&["profile", "-p", ann, "link", place, "--check"]);
    assert!(
        complaint.contains("leads to elsewhere, not to"),
        "{complaint}"
    );
    link(&[place]);
    assert_eq!(target(place), to);
}

#[test]
fn no_link_is_made_where_something_else_is_or_where_there_is_nothing_to_lead_to() {
    let sandbox = mounted();
    let complaint = |place: &str, more: &[&str]| {
        let arguments = [&["profile", "-p", "system", "link", place], more].concat();
        sandbox.complaint(&arguments)
    };
    // No such profile yet.
    let said = complaint("/run/current-system", &[]);
    assert!(said.contains("there is no profile 'system'"), "{said}");
    system(&sandbox, &["set", &systems().paths[0]]);
    let said = complaint("/run/current-system", &["--check"]);
    assert!(said.contains("does not exist"), "{said}");
    fs::write("/run/file", "mine").unwrap();
    fs::create_dir("/run/directory").unwrap();
    for place in ["/run/file", "/run/directory", "/run/directory/"] {
        for more in [&[][..], &["--check"], &["--dry-run"]] {
            let said = complaint(place, more);
            assert!(
                said.contains("is not a symlink"),
                "{place} {more:?}: {said}"
            );
        }
    }
    assert_eq!(fs::read_to_string("/run/file").unwrap(), "mine");
    let said = complaint("/run/absent/current-system", &[]);
    assert!(said.contains("/run/absent/"), "{said}");
    // The links of the mount itself cannot be replaced.
    let said = complaint("/nix/var/nix/profiles/system-1-link", &[]);
    assert!(said.contains("/nix/var/nix/profiles/"), "{said}");
    // A link to a directory is replaced itself, with a slash at its end too.
    symlink("/run/directory", "/run/current-system").unwrap();
    system(&sandbox, &["link", "/run/current-system/"]);
    assert_eq!(
        target("/run/current-system"),
        "/nix/var/nix/profiles/system"
    );
    assert_eq!(fs::read_dir("/run/directory").unwrap().count(), 0);
    let drafts = fs::read_dir("/run").unwrap().flatten();
    let hidden = |e: &fs::DirEntry| e.file_name().to_string_lossy().starts_with('.');
    assert_eq!(drafts.filter(hidden).count(), 0);
    // Without a mount there is nothing to lead to.
    sandbox.unmount();
    let mut link = sandbox.command(&["profile", "-p", "system", "link", "/run/other"]);
    let ran = run(&mut link, b"");
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("is not mounted"), "{}", ran.stderr);
    assert!(!Path::new("/run/other").is_symlink());
}
