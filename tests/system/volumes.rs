//! Closure views as volumes: what a container engine is answered at the socket, and what lies where it
//! is told to look, while daemons come and go.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::binary_cache::{Cache, Offer};
use crate::closures::{closure, listing};
use crate::on_demand::{SHORT, directory, key};
use crate::server::{Answer, Server};
use crate::support::{Sandbox, World, is_alive, run, wait_until};

/// A container engine, as far as volumes go.
#[derive(Clone)]
struct Client(PathBuf);

impl Client {
    /// One of a sandbox, whose socket is still to be made.
    fn of(sandbox: &Sandbox) -> Self {
        Self(sandbox.dir().join("plugins/narfs.sock"))
    }

    fn socket(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// A request and its answer.
    #[track_caller]
    fn ask(&self, endpoint: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        self.send(&format!(
            "POST /{endpoint} HTTP/1.1\r\nHost: plugin\r\nConnection: close\r\n\
             Content-Type: application/vnd.docker.plugins.v1.1+json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    /// What is answered to these bytes.
    #[track_caller]
    fn send(&self, request: &str) -> (u16, Value) {
        let mut stream = UnixStream::connect(&self.0).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        // An answer may come before all of it was taken.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        // What was not read of the request resets the connection, behind the answer.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap())
    }

    /// The answer to a request about a volume, which must succeed.
    #[track_caller]
    fn done(&self, request: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(&format!("VolumeDriver.{request}"), body);
        assert_eq!(status, 200, "{request}: {answer}");
        answer
    }

    #[track_caller]
    fn create(&self, name: &str, options: &Value) {
        self.done("Create", &json!({ "Name": name, "Opts": options }));
    }

    #[track_caller]
    fn mount(&self, name: &str) -> PathBuf {
        let mounted = self.done("Mount", &json!({ "Name": name, "ID": "c0ffee" }));
        mounted["Mountpoint"].as_str().unwrap().into()
    }

    #[track_caller]
    fn remove(&self, name: &str) {
        self.done("Remove", &json!({ "Name": name }));
    }

    fn volumes(&self) -> Vec<String> {
        let listed = self.done("List", &json!({}));
        let volumes = listed["Volumes"].as_array().unwrap().iter();
        volumes
            .map(|v| v["Name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// What is said of a request that fails.
    #[track_caller]
    fn complaint(&self, request: &str, body: &Value) -> String {
        let (status, answer) = self.ask(&format!("VolumeDriver.{request}"), body);
        assert_ne!(status, 200, "{request}: {answer}");
        answer["Err"].as_str().unwrap().to_owned()
    }
}

/// A sandbox with worlds, mounted, and its client.
fn with_plugin() -> (Sandbox, Client) {
    let sandbox = Sandbox::with_worlds();
    let client = Client::of(&sandbox);
    mount(&sandbox, &client);
    (sandbox, client)
}

fn mount(sandbox: &Sandbox, client: &Client) {
    let at = sandbox.at.to_str().unwrap();
    sandbox.narfs(&["mount", at, "--offline", "--volume-plugin", client.socket()]);
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// Kills the daemon, and keeps another from coming until the result is told to have it come.
fn without_daemon(sandbox: &Sandbox) -> impl FnOnce() + use<> {
    let (keeper, pid) = (sandbox.keeper(), sandbox.pid());
    signal(keeper, Signal::STOP);
    signal(pid, Signal::KILL);
    wait_until("the daemon has ended", || !is_alive(pid));
    move || signal(keeper, Signal::CONT)
}

#[test]
fn a_volume_is_made_mounted_and_removed() {
    let (sandbox, client) = with_plugin();
    let hello = World::small().package("hello");
    let activated = client.ask("Plugin.Activate", &json!(null));
    assert_eq!(activated, (200, json!({ "Implements": ["VolumeDriver"] })));
    let socket = client.0.symlink_metadata().unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.mode() & 0o777, 0o600);
    assert_eq!(sandbox.json(&["status"])["volume_plugin"], client.socket());
    assert!(sandbox.narfs(&["status"]).contains(client.socket()));

    client.create("app", &json!({ "closure": format!("/nix/store/{hello}") }));
    let at = client.mount("app");
    assert_eq!(at, sandbox.at.join(".narfs/closures/app/store"));
    assert_eq!(listing(&at), closure(&sandbox, hello));
    let inside = fs::read(at.join(hello).join("bin/hello")).unwrap();
    let original = sandbox.package(World::small(), "hello").join("bin/hello");
    assert!(inside == fs::read(original).unwrap());
    assert_eq!(sandbox.json(&["closures"])[0]["name"], "app");
    let named = json!({ "Name": "app", "ID": "c0ffee" });
    let mounted = json!({ "Mountpoint": at, "Err": "" });
    assert_eq!(client.done("Path", &named), mounted);
    let got = client.done("Get", &named);
    assert_eq!(got["Volume"]["Mountpoint"], mounted["Mountpoint"]);
    assert_eq!(got["Volume"]["Status"]["paths"], listing(&at).len());
    assert_eq!(client.volumes(), ["app"]);

    client.done("Unmount", &named);
    assert!(at.is_dir());
    client.remove("app");
    assert!(!at.exists());
    assert!(client.volumes().is_empty());
    assert_eq!(sandbox.json(&["closures"]), json!([]));
    let said = client.complaint("Mount", &named);
    assert!(said.contains("no closure view \"app\""), "{said}");
}

#[test]
fn of_a_view_that_narfs_closure_made_an_engine_only_lets_go() {
    let (sandbox, client) = with_plugin();
    let [hello, bash] = ["hello", "bash"].map(|name| World::small().package(name));
    sandbox.narfs(&["closure", "theirs", hello]);
    client.create("theirs", &json!(null));
    client.create("ours", &json!({ "closure": hello }));
    let said = client.complaint(
        "Create",
        &json!({ "Name": "ours", "Opts": { "closure": bash } }),
    );
    assert!(
        said.contains(&format!("-o closure=/nix/store/{hello}")),
        "{said}"
    );
    assert_eq!(client.volumes(), ["ours", "theirs"]);
    // Whose it is outlives the daemon, and whatever becomes of the view.
    sandbox.narfs(&["closure", "ours", bash]);
    signal(sandbox.pid(), Signal::KILL);
    for name in ["ours", "theirs"] {
        client.remove(name);
    }
    assert_eq!(client.volumes(), ["theirs"]);
    assert!(client.mount("theirs").join(hello).is_dir());
}

#[test]
fn a_volume_follows_a_profile_that_is_switched() {
    let (sandbox, client) = with_plugin();
    let [hello, bash] = ["hello", "bash"].map(|name| World::small().package(name));
    sandbox.narfs(&["profile", "-p", "web", "install", bash]);
    client.create("app", &json!({ "profile": "web" }));
    let container = sandbox.make_dir("container");
    rustix::mount::mount_bind(client.mount("app"), &container).unwrap();
    assert!(container.join(bash).join("bin/bash").is_file());
    sandbox.narfs(&["profile", "-p", "web", "set", hello]);
    assert_eq!(listing(&container), closure(&sandbox, hello));
    sandbox.narfs(&["profile", "-p", "web", "rollback"]);
    assert!(container.join(bash).join("bin/bash").is_file());
    let said = client.complaint(
        "Create",
        &json!({ "Name": "x", "Opts": { "profile": "none" } }),
    );
    assert!(said.contains("the profiles are: web"), "{said}");
}

#[test]
fn nothing_is_lost_when_the_daemon_is_killed_between_two_requests() {
    let (sandbox, client) = with_plugin();
    let hello = World::small().package("hello");
    let inode = || client.0.symlink_metadata().unwrap().ino();
    let first = inode();
    for round in 0..5 {
        let name = format!("v{round}");
        let pid = sandbox.pid();
        client.create(&name, &json!({ "closure": hello }));
        signal(pid, Signal::KILL);
        let at = client.mount(&name);
        assert!(at.join(hello).join("bin/hello").is_file());
        assert_ne!(sandbox.pid(), pid);
        client.remove(&name);
        // At no time was there none to connect to.
        assert_eq!(inode(), first);
    }
    assert!(client.volumes().is_empty());
    sandbox.narfs(&["upgrade"]);
    assert_eq!(sandbox.json(&["status"])["volume_plugin"], client.socket());
    client.create("after", &json!({ "closure": hello }));
    assert_eq!(inode(), first);
}

#[test]
fn who_asks_while_no_daemon_is_there_waits_for_the_next() {
    let (sandbox, client) = with_plugin();
    let hello = World::small().package("hello");
    client.create("app", &json!({ "closure": hello }));
    let comes = without_daemon(&sandbox);
    let asking: Vec<JoinHandle<_>> = (0..4)
        .map(|_| {
            let client = client.clone();
            std::thread::spawn(move || client.mount("app"))
        })
        .collect();
    sleep(Duration::from_millis(300));
    assert!(asking.iter().all(|thread| !thread.is_finished()));
    comes();
    for thread in asking {
        let at = thread.join().unwrap();
        assert!(at.join(hello).is_dir());
    }
}

#[test]
fn what_is_sent_in_any_form_is_answered() {
    let (_sandbox, client) = with_plugin();
    let hello = World::small().package("hello");
    let body = json!({ "Name": "app", "Opts": { "closure": hello } }).to_string();
    let (first, second) = body.split_at(7);
    let chunked = format!(
        "POST /VolumeDriver.Create HTTP/1.1\r\nHost: plugin\r\nConnection: close\r\n\
         Accept: application/vnd.docker.plugins.v1.2+json\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
        first.len(),
        second.len()
    );
    assert_eq!(client.send(&chunked), (200, json!({ "Err": "" })));
    assert_eq!(client.volumes(), ["app"]);
    let head = "HTTP/1.1\r\nHost: plugin\r\nConnection: close\r\n";
    let long = format!("{{\"Name\": \"{}\"}}", "x".repeat(2 << 20));
    for (request, expected, what) in [
        (format!("GET /VolumeDriver.List {head}\r\n"), 405, "POST"),
        (format!("POST /VolumeDriver.Get {head}\r\n"), 400, "Name"),
        (format!("POST / {head}\r\n"), 404, "/VolumeDriver.Create"),
        (
            format!("POST /%00/.. {head}\r\n"),
            404,
            "/VolumeDriver.Create",
        ),
        (
            format!(
                "POST /VolumeDriver.Get {head}Content-Length: {}\r\n\r\n{long}",
                long.len()
            ),
            413,
            "length limit exceeded",
        ),
        (
            format!(
                "POST /VolumeDriver.Get {head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n0\r\n\r\n",
                long.len()
            ),
            413,
            "length limit exceeded",
        ),
        (
            format!("POST /VolumeDriver.Get {head}Transfer-Encoding: chunked\r\n\r\nxyz\r\n"),
            400,
            "",
        ),
    ] {
        let (status, answer) = client.send(&request);
        let said = answer["Err"].as_str().unwrap();
        assert_eq!(status, expected, "{}: {said}", &request[..30]);
        assert!(said.contains(what), "{said}");
    }
    // Two requests on one connection, as engines keep it.
    let mut stream = UnixStream::connect(&client.0).unwrap();
    for _ in 0..2 {
        write!(
            stream,
            "POST /Plugin.Activate HTTP/1.1\r\nHost: plugin\r\n\r\n"
        )
        .unwrap();
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("VolumeDriver"),
            "{answer}"
        );
    }
    assert_eq!(client.volumes(), ["app"]);
}

#[test]
fn a_source_that_does_not_answer_is_waited_for_as_long_as_by_a_lookup() {
    let cache = Cache::new();
    let library = directory("library", b"library");
    let program = directory("program", b"program").referring(&[library.path()]);
    for offer in [&library, &program] {
        cache.put(offer);
    }
    let stalls = format!("/{}.narinfo", library.path().hash());
    let server = Server::new(cache.dir().to_owned(), move |path, before| {
        match path == stalls && before < 1 {
            true => Answer::Stall,
            false => Answer::File,
        }
    });
    let sandbox = Sandbox::empty();
    let client = Client::of(&sandbox);
    let (at, key) = (sandbox.at.to_str().unwrap(), key(&cache));
    let from = [
        "--from",
        &server.url,
        "--trusted-public-key",
        &key,
        "-o",
        SHORT,
    ];
    let plugin = ["--volume-plugin", client.socket()];
    sandbox.narfs(&[&["mount", at][..], &from, &plugin].concat());
    let name = |offer: &Offer| offer.path().to_string();
    let wanted = json!({ "Name": "app", "Opts": { "closure": name(&program) } });
    let began = Instant::now();
    let asking = {
        let (client, wanted) = (client.clone(), wanted.clone());
        std::thread::spawn(move || client.ask("VolumeDriver.Create", &wanted))
    };
    // Others are answered meanwhile.
    sleep(Duration::from_millis(200));
    assert!(client.volumes().is_empty() && !asking.is_finished());
    let (status, answer) = asking.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(60), "{answer}");
    if status != 200 {
        assert!(
            answer["Err"].as_str().unwrap().contains("library"),
            "{answer}"
        );
        client.done("Create", &wanted);
    }
    let shown = client.mount("app");
    assert_eq!(listing(&shown), [&library, &program].map(name).into());
    assert_eq!(
        fs::read(shown.join(name(&program)).join("file")).unwrap(),
        b"program"
    );
    let absent = "00000000000000000000000000000000-absent";
    let absent = json!({ "Name": "x", "Opts": { "closure": absent } });
    let said = client.complaint("Create", &absent);
    assert!(said.contains("-absent"), "{said}");
    assert_eq!(client.volumes(), ["app"]);
}

#[test]
fn the_socket_goes_with_the_mount_and_one_that_was_left_is_replaced() {
    let (sandbox, client) = with_plugin();
    sandbox.unmount();
    assert!(!client.0.exists());
    mount(&sandbox, &client);
    // Keeper and daemon are killed: nobody could remove it.
    sandbox.kill();
    rustix::mount::unmount(&sandbox.at, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(client.0.exists());
    mount(&sandbox, &client);
    assert!(client.volumes().is_empty());
    // Unmounted while no daemon is there.
    let comes = without_daemon(&sandbox);
    rustix::mount::unmount(&sandbox.at, rustix::mount::UnmountFlags::DETACH).unwrap();
    comes();
    wait_until("the socket is gone or left for the next", || {
        UnixStream::connect(&client.0).is_err()
    });
    mount(&sandbox, &client);
    // A daemon that is told to end takes it away.
    let daemon = sandbox.pid();
    signal(daemon, Signal::TERM);
    wait_until("the daemon has ended", || !is_alive(daemon));
    wait_until("its socket is gone", || !client.0.exists());
}

#[test]
fn where_something_else_is_nothing_is_mounted() {
    let other = Sandbox::with_worlds();
    // Its mount namespace is that of both.
    let (sandbox, client) = with_plugin();
    let at = other.at.to_str().unwrap();
    let mount =
        |socket: &str| other.complaint(&["mount", at, "--offline", "--volume-plugin", socket]);
    let said = mount(client.socket());
    assert!(
        said.contains("another process listens at") && said.contains(client.socket()),
        "{said}"
    );
    let file = other.dir().join("file");
    fs::write(&file, "precious").unwrap();
    let said = mount(file.to_str().unwrap());
    assert!(said.contains("is not a socket"), "{said}");
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    let said = mount(&format!("{}/x.sock", file.display()));
    assert!(said.contains("x.sock"), "{said}");
    assert!(other.mounts().is_empty());
    // A socket that was made is not left where the mount fails.
    let socket = other.dir().join("new.sock");
    let occupied = other.dir().to_str().unwrap();
    let (socket_text, command) = (socket.to_str().unwrap(), ["mount", occupied, "--offline"]);
    other.complaint(&[&command[..], &["--volume-plugin", socket_text]].concat());
    assert!(!socket.exists());
    // The first one is not disturbed, and says that it goes on as it was started.
    let again = sandbox.make_dir("again");
    let again = [
        "mount",
        again.to_str().unwrap(),
        "--volume-plugin",
        socket_text,
    ];
    let ran = run(&mut sandbox.command(&again), b"");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("--volume-plugin"), "{}", ran.stderr);
    assert!(client.volumes().is_empty() && !socket.exists());
}

#[test]
fn the_configuration_names_the_socket_and_where_nothing_is_mounted_that_is_said() {
    let sandbox = Sandbox::with_worlds();
    let client = Client::of(&sandbox);
    let file = sandbox.dir().join("config.toml");
    fs::write(
        &file,
        format!("from = []\nvolume-plugin = \"{}\"\n", client.socket()),
    )
    .unwrap();
    let daemon = |more: &[&str]| {
        let mut command = sandbox.command(&["daemon", "--background", "--until-unmounted"]);
        command.args(more).env("NARFS_CONFIG", &file);
        run(&mut command, b"")
    };
    let ran = daemon(&[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let hello = World::small().package("hello");
    client.create("app", &json!({ "closure": hello }));
    let said = client.complaint("Mount", &json!({ "Name": "app" }));
    assert!(said.contains("narfs mount MOUNTPOINT"), "{said}");
    // The store alone does not show it.
    let store = sandbox.make_dir("store");
    sandbox.narfs(&["mount", store.to_str().unwrap(), "-o", "subtree=store"]);
    let said = client.complaint("Mount", &json!({ "Name": "app" }));
    assert!(said.contains("narfs mount MOUNTPOINT"), "{said}");
    let has_ended = || {
        wait_until("the daemon has ended", || !sandbox.is_served());
        wait_until("the socket is gone", || !client.0.exists());
    };
    sandbox.narfs(&["umount", store.to_str().unwrap()]);
    has_ended();
    assert_eq!(daemon(&[]).code, Some(0));
    sandbox.narfs(&["mount", sandbox.at.to_str().unwrap()]);
    assert!(client.mount("app").join(hello).is_dir());
    sandbox.unmount();
    has_ended();
    // The command line goes before it.
    let ran = daemon(&["--volume-plugin", "none"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(sandbox.json(&["status"])["volume_plugin"], Value::Null);
    assert!(!client.0.exists());
    let empty = ["mount", sandbox.at.to_str().unwrap(), "--volume-plugin", ""];
    let ran = run(&mut sandbox.command(&empty), b"");
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("--volume-plugin"), "{}", ran.stderr);
    signal(sandbox.pid(), Signal::KILL);
}

/// The program as a service manager starts it that hands a descriptor over under this name: it mounts, and
/// stays in the foreground.
pub fn with_descriptor(sandbox: &Sandbox, name: &str, descriptor: i32) -> Command {
    let at = sandbox.at.to_str().unwrap();
    let narfs = sandbox.command(&["mount", at, "--offline", "--foreground"]);
    let mut command = Command::new("sh");
    command.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"]);
    command.arg(narfs.get_program()).args(narfs.get_args());
    for (name, value) in narfs.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name);
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            if descriptor == 3 {
                libc::fcntl(3, libc::F_SETFD, 0);
            } else {
                libc::dup2(descriptor, 3);
            }
            Ok(())
        });
    }
    command
}

#[test]
fn a_socket_that_a_service_manager_hands_over_is_the_managers() {
    let sandbox = Sandbox::with_worlds();
    let client = Client(sandbox.dir().join("handed.sock"));
    let listener = UnixListener::bind(&client.0).unwrap();
    let start = |descriptor| with_descriptor(&sandbox, "plugin", descriptor);
    let mut daemon = start(listener.as_raw_fd()).spawn().unwrap();
    // It waits at the socket for as long as that takes.
    client.create(
        "app",
        &json!({ "closure": World::small().package("hello") }),
    );
    assert_eq!(sandbox.json(&["status"])["volume_plugin"], client.socket());
    assert!(client.mount("app").is_dir());
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
    assert!(client.0.exists());
    let mut daemon = start(listener.as_raw_fd()).spawn().unwrap();
    assert_eq!(client.volumes(), ["app"]);
    sandbox.unmount();
    daemon.wait().unwrap();
    // What is no listening unix socket is refused.
    let file = File::open(&sandbox.state).unwrap();
    let ran = run(&mut start(file.as_raw_fd()), b"");
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stderr.contains("from the service manager") && ran.stderr.contains("plugin"),
        "{}",
        ran.stderr
    );
}
