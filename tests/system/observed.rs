//! What a daemon tells over HTTP, by itself and by a process beside it, to whoever asks well or
//! badly; and what it tells and refuses to users who are not root.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::exposition;
use crate::support::{Sandbox, World, is_alive, read_everything, run, wait_until};

/// Somebody without rights.
const NOBODY: u32 = 65534;

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

fn mount(sandbox: &Sandbox) -> SocketAddr {
    let at = sandbox.at.to_str().unwrap();
    sandbox.narfs(&["mount", at, "--offline", "--listen", "127.0.0.1:0"]);
    listens(sandbox)
}

/// Where the daemon says that it listens.
fn listens(sandbox: &Sandbox) -> SocketAddr {
    let status = sandbox.json(&["status"]);
    status["listen"].as_str().unwrap().parse().unwrap()
}

/// An answer: status and body.
type Answer = (u16, String);

fn connect(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).unwrap();
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).unwrap();
    stream
}

fn send(stream: &mut impl Write, method: &str, path: &str) {
    let end = "Host: x\r\nConnection: close\r\n\r\n";
    let request = format!("{method} {path} HTTP/1.1\r\n{end}");
    stream.write_all(request.as_bytes()).unwrap();
}

fn receive(stream: &mut impl Read) -> Answer {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    (status.parse().unwrap(), body.to_owned())
}

fn ask(at: SocketAddr, method: &str, path: &str) -> Answer {
    let mut stream = connect(at);
    send(&mut stream, method, path);
    receive(&mut stream)
}

/// What must be answered well.
fn get(at: SocketAddr, path: &str) -> String {
    let (status, body) = ask(at, "GET", path);
    assert_eq!(status, 200, "{path}: {body}");
    body
}

/// The value of a series.
fn figure(at: SocketAddr, series: &str) -> f64 {
    let text = get(at, "/metrics");
    let line = text.lines().find_map(|l| l.strip_prefix(series));
    line.unwrap_or_else(|| panic!("no {series} in {text}"))
        .trim()
        .parse()
        .unwrap()
}

/// What waits for another daemon, and what is to be done when the one before it is gone.
fn while_no_daemon_is_there<T>(sandbox: &Sandbox, begin: impl FnOnce() -> T) -> T {
    let (keeper, pid) = (sandbox.keeper(), sandbox.pid());
    signal(keeper, Signal::STOP);
    signal(pid, Signal::KILL);
    wait_until("the daemon has ended", || !is_alive(pid));
    let begun = begin();
    signal(keeper, Signal::CONT);
    begun
}

/// The program, at a place that everybody gets at as well as at the state.
fn open_to_all(sandbox: &Sandbox) -> PathBuf {
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(sandbox.dir(), open).unwrap();
    let program = sandbox.dir().join("narfs");
    let built = env!("CARGO_BIN_EXE_narfs");
    if !program.exists() && fs::hard_link(built, &program).is_err() {
        fs::copy(built, &program).unwrap();
    }
    program
}

/// The program as somebody without rights runs it.
fn as_nobody(sandbox: &Sandbox, arguments: &[&str]) -> Command {
    let mut command = Command::new(open_to_all(sandbox));
    command.args(arguments).uid(NOBODY).gid(NOBODY);
    let environment = [("NARFS_STATE", sandbox.state.as_os_str())];
    command.env_clear().envs(environment);
    command.env("NARFS_CONFIG", "/dev/null").current_dir("/");
    command
}

/// `narfs serve` of somebody without rights.
struct Service {
    process: Child,
    at: SocketAddr,
}

impl Service {
    fn start(sandbox: &Sandbox) -> Self {
        let mut command = as_nobody(sandbox, &["serve", "--listen", "127.0.0.1:0"]);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(process.stdout.as_mut().unwrap());
        said.read_line(&mut line).unwrap();
        let at = line.trim().strip_prefix("listening at ").unwrap();
        Self {
            at: at.parse().unwrap(),
            process,
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Both who tell of a daemon.
fn both(sandbox: &Sandbox) -> (Service, [SocketAddr; 2]) {
    let at = mount(sandbox);
    let service = Service::start(sandbox);
    let both = [at, service.at];
    (service, both)
}

#[test]
fn a_daemon_and_a_process_without_rights_beside_it_tell_the_same() {
    let sandbox = Sandbox::with_worlds();
    let (_service, both) = both(&sandbox);
    let read = read_everything(&sandbox.package(World::small(), "bash"));
    sleep(Duration::from_millis(600));
    for at in both {
        let text = get(at, "/metrics");
        let samples = exposition::check(&text);
        let values = |name: &str| {
            let series = samples.iter().filter(|(n, ..)| n == name);
            series.map(|(.., value)| *value).collect::<Vec<_>>()
        };
        let value = |name: &str| values(name).iter().sum::<f64>();
        assert!(value("narfs_served_bytes_total") >= read as f64);
        assert!(value("narfs_fuse_request_duration_seconds_count") > 0.0);
        assert_eq!(values("narfs_ingested_bytes_total").len(), 2);
        let status: serde_json::Value = serde_json::from_str(&get(at, "/status")).unwrap();
        assert_eq!(status["pid"], sandbox.pid());
        assert_eq!(status["listen"], both[0].to_string());
        assert_eq!(get(at, "/healthz"), "ok\n");
        assert!(get(at, "/").contains("/metrics"));
        let (code, body) = ask(at, "GET", "/metric");
        assert!(code == 404 && body.contains("/metrics"), "{code} {body}");
        let (code, body) = ask(at, "POST", "/metrics");
        assert!(
            code == 405 && body.contains("GET and HEAD"),
            "{code} {body}"
        );
        assert_eq!(ask(at, "HEAD", "/metrics"), (200, String::new()));
    }
    let shown = sandbox.narfs(&["status"]);
    assert!(
        shown.contains(&format!("HTTP        {}\n", both[0])),
        "{shown}"
    );
}

#[test]
fn what_is_asked_while_the_daemon_is_killed_is_answered_by_the_next() {
    let sandbox = Sandbox::with_worlds();
    let (_service, both) = both(&sandbox);
    for _ in 0..3 {
        let pid = sandbox.pid();
        let asking = while_no_daemon_is_there(&sandbox, || {
            both.map(|at| std::thread::spawn(move || get(at, "/status")))
        });
        for asking in asking {
            let status: serde_json::Value = serde_json::from_str(&asking.join().unwrap()).unwrap();
            assert_ne!(status["pid"], pid);
        }
        assert_eq!(listens(&sandbox), both[0]);
        // What was told before the kill is not told again for long.
        sleep(Duration::from_millis(600));
    }
    assert_eq!(figure(both[0], "narfs_restarts_total"), 3.0);
    sandbox.unmount();
    wait_until("nobody listens any more", || {
        TcpStream::connect(both[0]).is_err()
    });
}

#[test]
fn without_a_daemon_a_process_beside_it_says_why_and_goes_on() {
    let sandbox = Sandbox::with_worlds();
    let mut service = Service::start(&sandbox);
    for path in ["/metrics", "/status", "/healthz"] {
        let (code, body) = ask(service.at, "GET", path);
        assert_eq!(code, 503, "{body}");
        let why = format!("no daemon serves the state {}", sandbox.state.display());
        assert!(body.contains(&why), "{body}");
    }
    sandbox.mount();
    wait_until("the daemon is seen", || {
        ask(service.at, "GET", "/healthz").0 == 200
    });
    // Its socket stays behind, and nobody listens there.
    sandbox.kill();
    wait_until("its end is seen", || {
        ask(service.at, "GET", "/healthz").0 == 503
    });
    signal(service.process.id(), Signal::TERM);
    assert_eq!(service.process.wait().unwrap().code(), Some(0));
}

#[test]
fn clients_that_are_slow_many_or_talk_nonsense_hinder_nobody() {
    let sandbox = Sandbox::with_worlds();
    let (_service, both) = both(&sandbox);
    let pid = sandbox.pid();
    let mut held = Vec::new();
    for at in both {
        for n in 0..300 {
            let mut stream = connect(at);
            match n % 3 {
                0 => stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ").unwrap(),
                1 => stream.write_all(b"\x16\x03\x01\0\xa5\x01\0\0").unwrap(),
                _ => {}
            }
            held.push(stream);
        }
        for nonsense in ["GET / HTTP/9.9\r\n\r\n", "\0\0\0\0\r\n\r\n", "GET /metrics"] {
            connect(at).write_all(nonsense.as_bytes()).unwrap();
        }
        let began = Instant::now();
        assert!(get(at, "/metrics").contains("narfs_build_info"));
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    // Many at once are all answered.
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| both.map(|at| get(at, "/status")));
        }
    });
    assert_eq!(sandbox.pid(), pid);
    assert!(read_everything(&sandbox.package(World::small(), "hello")) > 0);
    drop(held);
}

#[test]
fn a_port_that_is_taken_is_said_before_anything_is_mounted() {
    let sandbox = Sandbox::with_worlds();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let at = sandbox.at.to_str().unwrap();
    for command in [
        &["mount", at, "--offline", "--listen", &address][..],
        &[
            "mount",
            at,
            "--offline",
            "--foreground",
            "--listen",
            &address,
        ],
        &["daemon", "--offline", "--listen", &address],
        &["daemon", "--offline", "--background", "--listen", &address],
        &["serve", "--listen", &address],
    ] {
        let said = sandbox.complaint(command);
        let why = format!("cannot listen at {address}");
        assert!(said.contains(&why) && said.contains("in use"), "{said}");
        assert!(sandbox.mounts().is_empty() && !sandbox.is_served());
    }
    let config = sandbox.dir().join("narfs.toml");
    fs::write(&config, format!("listen = \"{address}\"\n")).unwrap();
    let mount = [
        "--config",
        config.to_str().unwrap(),
        "mount",
        at,
        "--offline",
    ];
    assert!(sandbox.complaint(&mount).contains("cannot listen at"));
    drop(taken);
    sandbox.narfs(&mount);
    assert_eq!(listens(&sandbox).to_string(), address);
    // Only the start of a daemon heeds it.
    let second = sandbox.make_dir("second");
    let second = second.to_str().unwrap();
    let mut again = sandbox.command(&["mount", second, "--listen", "127.0.0.1:0"]);
    let said = run(&mut again, b"").stderr;
    assert!(
        said.contains("these options have no effect: --listen 127.0.0.1:0"),
        "{said}"
    );
}

#[test]
fn where_to_listen_must_be_said_and_make_sense() {
    let sandbox = Sandbox::with_worlds();
    let said = sandbox.misuse(&["serve"]);
    assert!(
        said.contains("--listen") && said.contains("narfs-http.socket"),
        "{said}"
    );
    for command in ["serve", "daemon"] {
        let ran = run(&mut sandbox.command(&[command, "--listen", ":9464"]), b"");
        assert_eq!(ran.code, Some(2));
        let said = ran.stderr;
        assert!(said.contains("127.0.0.1:9464 for this machine"), "{said}");
    }
}

#[test]
fn a_unix_socket_is_listened_at_too_and_outlives_the_daemon() {
    let sandbox = Sandbox::with_worlds();
    let path = sandbox.dir().join("http.sock");
    let address = format!("unix:{}", path.display());
    let at = sandbox.at.to_str().unwrap();
    sandbox.narfs(&["mount", at, "--offline", "--listen", &address]);
    let get = || {
        let mut stream = UnixStream::connect(&path).unwrap();
        send(&mut stream, "GET", "/status");
        receive(&mut stream)
    };
    assert_eq!(get().0, 200);
    while_no_daemon_is_there(&sandbox, || {});
    let (code, status) = get();
    assert_eq!(code, 200);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["listen"], address);
}

#[test]
fn a_socket_that_is_handed_over_is_served_until_nobody_asks() {
    let sandbox = Sandbox::mounted();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let arguments = ["serve", "--idle-timeout", "1"];
    let serve = as_nobody(&sandbox, &arguments);
    let start = || {
        // The number of the process stands in its environment, which only it knows in time.
        let mut command = Command::new("sh");
        command.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"]);
        command.arg(serve.get_program()).args(serve.get_args());
        let given = serve.get_envs().filter_map(|(n, v)| Some((n, v?)));
        command.env_clear().envs(given);
        command.env("PATH", "/usr/bin:/bin").env("LISTEN_FDS", "1");
        let number = listener.as_raw_fd();
        // SAFETY: only async-signal-safe calls between fork and exec.
        unsafe {
            command.pre_exec(move || {
                // Closed at exec otherwise, where it has that number already.
                if number == 3 {
                    libc::fcntl(3, libc::F_SETFD, 0);
                } else {
                    libc::dup2(number, 3);
                }
                Ok(())
            });
        }
        command.uid(NOBODY).gid(NOBODY).stdout(Stdio::null());
        command.spawn().unwrap()
    };
    for _ in 0..2 {
        // As a service manager does: it is started when somebody has come.
        let mut stream = connect(at);
        send(&mut stream, "GET", "/healthz");
        let mut service = start();
        assert_eq!(receive(&mut stream), (200, "ok\n".to_owned()));
        assert_eq!(service.wait().unwrap().code(), Some(0));
    }
    // The socket is still there, for the next one.
    drop(connect(at));
}

#[test]
fn everybody_may_look_and_only_root_may_do() {
    let sandbox = Sandbox::mounted();
    let socket = sandbox.state.join("control.sock");
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    // The kernel says who has connected; that decides.
    assert_eq!(mode & 0o7777, 0o666);
    let ran = |arguments: &[&str]| run(&mut as_nobody(&sandbox, arguments), b"");
    for look in [
        &["status"][..],
        &["status", "--json"],
        &["metrics"],
        &["top", "--once"],
    ] {
        let ran = ran(look);
        assert_eq!(ran.code, Some(0), "{look:?}: {}", ran.stderr);
        assert!(!ran.stdout.is_empty());
    }
    let metrics = String::from_utf8(ran(&["metrics"]).stdout).unwrap();
    exposition::check(&metrics);
    let bash = World::small().package("bash");
    let at = sandbox.at.to_str().unwrap();
    let large = vec![bash; 20_000];
    for refused in [
        &["gc"][..],
        &["evict", "--to", "0"],
        &["stats"],
        &["pin", bash],
        &["pins"],
        &["roots"],
        &["cat", &format!("{bash}/bin/bash")],
        &["profile", "list"],
        &["upgrade"],
        &[&["path-info"], &large[..]].concat(),
    ] {
        let ran = ran(refused);
        let name = refused[0];
        assert_eq!(ran.code, Some(1), "{name}: {}", ran.stderr);
        let said = ran.stderr;
        assert!(said.starts_with("narfs: only root may"), "{name}: {said}");
        assert!(said.contains("narfs status"), "{name}: {said}");
    }
    let ran = ran(&["umount", at]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert_eq!(sandbox.mounts(), std::slice::from_ref(&sandbox.at));
}

#[test]
fn without_a_daemon_a_user_without_rights_is_told_what_is_missing() {
    let sandbox = Sandbox::with_worlds();
    for (command, expected) in [
        ("status", "no daemon serves the state"),
        ("metrics", "no daemon serves the state"),
        ("gc", "run the command as root"),
        ("path-info", "run the command as root"),
    ] {
        let ran = run(&mut as_nobody(&sandbox, &[command]), b"");
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{command}: {}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    }
    // A state of one's own is nobody else's business.
    let own = sandbox.make_dir("own");
    std::os::unix::fs::chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    let state = own.join("state");
    let tree = own.join("tree");
    fs::write(&tree, "contents").unwrap();
    for command in [
        &["add", tree.to_str().unwrap()][..],
        &["path-info"],
        &["gc"],
    ] {
        let mut command = as_nobody(&sandbox, command);
        let ran = run(command.env("NARFS_STATE", &state), b"");
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
}

/// Does something with a connection to the control socket that somebody without rights has made.
fn from_unprivileged<T: Send>(sandbox: &Sandbox, work: impl FnOnce(UnixStream) -> T + Send) -> T {
    open_to_all(sandbox);
    let socket = sandbox.state.join("control.sock");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: the system call, unlike the function of libc, is of this thread alone, which
            // ends after it.
            let status = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
            assert_eq!(status, 0);
            let stream = UnixStream::connect(socket).unwrap();
            let patience = Some(Duration::from_secs(20));
            stream.set_read_timeout(patience).unwrap();
            work(stream)
        });
        thread.join().unwrap()
    })
}

/// The answer to a frame: kind and text.
fn answer(mut stream: UnixStream, kind: u8, payload: &[u8]) -> (u8, String) {
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    stream
        .write_all(&[&[kind], &length[..], payload].concat())
        .unwrap();
    let mut head = [0; 5];
    stream.read_exact(&mut head).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    (head[0], text)
}

#[test]
fn mounts_are_handed_over_by_root_alone() {
    let sandbox = Sandbox::mounted();
    for request in [
        &b"\"Ask\""[..],
        b"{\"Take\":{\"superblock\":1}}",
        b"nonsense",
    ] {
        let (kind, text) = from_unprivileged(&sandbox, |stream| answer(stream, b'A', request));
        assert_eq!(kind, b'E');
        assert!(text.starts_with("only root may"), "{text}");
    }
    let (kind, _) = from_unprivileged(&sandbox, |stream| answer(stream, b'C', b"\"Status\""));
    assert_eq!(kind, b'R');
    let (kind, text) = from_unprivileged(&sandbox, |stream| answer(stream, b'C', b"nonsense"));
    assert!(
        kind == b'E' && text.contains("does not know this"),
        "{text}"
    );
}

#[test]
fn users_who_hold_connections_keep_neither_root_nor_other_users_waiting() {
    let sandbox = Sandbox::mounted();
    let mut held = Vec::new();
    let refused = loop {
        assert!(held.len() < 100, "there is no bound");
        let mut stream = from_unprivileged(&sandbox, |stream| stream);
        // A request of 65,535 bytes, which never come.
        let _ = stream.write_all(b"C\xff\xff\0\0");
        // Who is one too many is told so at once.
        stream
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let mut said = Vec::new();
        match stream.read_to_end(&mut said) {
            Ok(_) => break said,
            Err(_) => held.push(stream),
        }
    };
    assert!(String::from_utf8_lossy(&refused).contains("too many"));
    let began = Instant::now();
    assert!(sandbox.narfs(&["status"]).contains("process"));
    let mut other = as_nobody(&sandbox, &["status"]);
    let ran = run(other.uid(NOBODY - 1), b"");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(began.elapsed() < Duration::from_secs(4));
    let ran = run(&mut as_nobody(&sandbox, &["status"]), b"");
    assert!(ran.stderr.contains("too many"), "{}", ran.stderr);
    // Even a byte now and then does not hold a place for long.
    wait_until("their time is over", || {
        for stream in &mut held {
            let _ = stream.write_all(b"x");
        }
        run(&mut as_nobody(&sandbox, &["status"]), b"").code == Some(0)
    });
}
