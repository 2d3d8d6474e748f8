//! Local trees that are added, and what cannot be.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use crate::binary_cache::{Tree, file, nar};
use crate::program::{Ran, State};

fn add(state: &State, path: &Path, name: &str) -> Ran {
    state.run(&["add", &path.display().to_string(), "--name", name])
}

#[test]
fn an_added_file_has_the_path_that_nix_gives_it() {
    let state = State::new();
    let dir = tempfile::tempdir().unwrap();
    let hello = dir.path().join("hello.txt");
    fs::write(&hello, "hello\n").unwrap();
    let expected = "/nix/store/i9pmrzmpshapij2kin22pff6fc2adavx-hello.txt";
    for _ in 0..2 {
        let ran = state.run(&["add", &hello.display().to_string()]);
        assert_eq!(ran.succeeds().stdout(), format!("{expected}\n"));
    }
    let info = state.infos(&[expected]).remove(0);
    let ca = "fixed:r:sha256:04zwf782yjwnh3q6hz5izfd6jyip8kgw6g6yj43fiqhbyhdd0dqw";
    assert_eq!(info["ca"], ca);
    let dump = state.run(&["dump", expected]).output.stdout;
    assert_eq!(dump, file(b"hello\n"));
    // A tree: x bits of the owner, links that lead nowhere, odd names.
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::write(tree.join("bin/x"), "#!").unwrap();
    fs::set_permissions(tree.join("bin/x"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink("../no where", tree.join("link")).unwrap();
    fs::write(tree.join(" odd\n"), "").unwrap();
    let ran = add(&state, &tree, "tree");
    let made = nar(&Tree::Directory(vec![
        (" odd\n", Tree::File(b"")),
        ("bin", Tree::Directory(vec![("x", Tree::Program(b"#!"))])),
        ("link", Tree::Link("../no where")),
    ]));
    let path = ran.succeeds().stdout();
    assert_eq!(state.run(&["dump", path.trim()]).output.stdout, made);
    assert_eq!(state.is_whole(), 2);
}

#[test]
fn what_no_store_path_can_hold_is_refused_by_name() {
    let state = State::new();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let tree = dir.path().join(name);
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("a"), "a").unwrap();
        (tree.clone(), tree.join("odd"))
    };
    let (tree, odd) = at("fifo");
    let made = std::process::Command::new("mkfifo").arg(&odd).status();
    assert!(made.unwrap().success());
    let odd = odd.display().to_string();
    add(&state, &tree, "x").fails(&[&odd, "unsupported type"]);
    add(&state, Path::new(&odd), "x").fails(&[&odd, "unsupported type"]);
    let (tree, odd) = at("socket");
    let _socket = UnixListener::bind(&odd).unwrap();
    add(&state, &tree, "x").fails(&[&odd.display().to_string(), "unsupported type"]);
    add(&state, Path::new("/dev/null"), "x").fails(&["/dev/null", "unsupported type"]);
    let gone = dir.path().join("gone");
    add(&state, &gone, "x").fails(&[&gone.display().to_string(), "No such file"]);
    let (tree, _) = at("names");
    for name in ["", ".", "..", ".-x", "a b", "a/b", &"n".repeat(212)] {
        add(&state, &tree, name).fails(&[&tree.display().to_string()]);
    }
    // Deeper than a NAR may be.
    let mut deep = dir.path().join("deep");
    for _ in 0..70 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    add(&state, &dir.path().join("deep"), "x").fails(&["deep"]);
    state.has_exactly(&[]);
    assert_eq!(state.is_whole(), 0);
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    // Reading another's memory is an error even for root.
    let state = State::new();
    add(&state, Path::new("/proc/self/mem"), "mem").fails(&["/proc/self/mem"]);
    state.has_exactly(&[]);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let state = State::at(dir.path().join("state"));
    let secret = dir.path().join("tree/secret");
    fs::create_dir(dir.path().join("tree")).unwrap();
    fs::write(&secret, "x").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    // The program may lie where only root can go: take it along.
    let program = dir.path().join("narfs");
    fs::copy(env!("CARGO_BIN_EXE_narfs"), &program).unwrap();
    let mut command = std::process::Command::new(program);
    command.arg("--state").arg(state.dir()).arg("add");
    command.arg(dir.path().join("tree")).uid(65534).gid(65534);
    let ran = Ran::of(&mut command);
    ran.fails(&[&secret.display().to_string(), "Permission denied"]);
    state.has_exactly(&[]);
}
