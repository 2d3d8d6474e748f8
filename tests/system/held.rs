//! What is served outlives a daemon as data: neither a mistake in the configuration nor a daemon that is
//! killed changes it, and who was told to leave has it read again.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::binary_cache::{Cache, Offer, file};
use crate::on_demand::key;
use crate::server::{Answer, Server};
use crate::support::{Sandbox, succeed, wait_until};

/// `user:secret`, as HTTP sends it.
const BASIC: &str = "dXNlcjpzZWNyZXQ=";

fn kill_daemon(sandbox: &Sandbox) {
    let pid = sandbox.pid();
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    wait_until("another daemon serves", || {
        sandbox.is_served() && sandbox.pid() != pid
    });
}

/// A configuration file of the sandbox, and how its commands are run with it.
struct Configured<'s> {
    sandbox: &'s Sandbox,
    file: PathBuf,
}

impl<'s> Configured<'s> {
    fn new(sandbox: &'s Sandbox, text: &str) -> Self {
        let file = sandbox.dir().join("config.toml");
        fs::write(&file, text).unwrap();
        Self { sandbox, file }
    }

    fn run(&self, arguments: &[&str]) -> String {
        let mut command = self.sandbox.command(arguments);
        succeed(command.env("NARFS_CONFIG", &self.file))
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.run(&["status", "--json"])).unwrap()
    }
}

#[test]
fn a_mistake_in_the_configuration_costs_nothing() {
    let cache = Cache::new();
    let offers = ["one", "two"].map(|name| Offer::named(name, file(name.as_bytes())));
    offers.iter().for_each(|offer| cache.put(offer));
    let sandbox = Sandbox::empty();
    let key = key(&cache);
    let good = |budget: &str| {
        format!(
            "from = [{:?}]\ntrusted-public-keys = [\"{key}\"]\n[mount]\nbudget = {budget:?}\n",
            cache.url()
        )
    };
    let configured = Configured::new(&sandbox, &good("50M"));
    configured.run(&["mount", sandbox.at.to_str().unwrap()]);
    let read = |offer: &Offer| fs::read(sandbox.store().join(offer.path().base_name())).unwrap();
    fs::write(&configured.file, "no-such-setting = 3\n").unwrap();
    kill_daemon(&sandbox);
    assert_eq!(read(&offers[0]), b"one");
    let status = configured.status();
    assert_eq!(status["budget"], 50 << 20);
    assert_eq!(status["configuration"], Value::Null);

    // Told to go on as another one it reads the file again, and says what is wrong.
    configured.run(&["upgrade"]);
    let status = configured.status();
    let said = status["configuration"].as_str().unwrap();
    assert!(
        said.contains("config.toml:1: ") && said.contains("no-such-setting"),
        "{said}"
    );
    assert_eq!(status["budget"], 50 << 20);
    assert_eq!(read(&offers[1]), b"two");
    // A daemon after a crash does not.
    kill_daemon(&sandbox);
    assert_eq!(configured.status()["budget"], 50 << 20);

    fs::write(&configured.file, good("20M")).unwrap();
    kill_daemon(&sandbox);
    assert_eq!(configured.status()["budget"], 50 << 20);
    configured.run(&["upgrade"]);
    let status = configured.status();
    assert_eq!(status["budget"], 20 << 20);
    assert_eq!(status["configuration"], Value::Null);
    let keeper = Pid::from_raw(sandbox.keeper().cast_signed()).unwrap();
    let pid = sandbox.pid();
    fs::write(&configured.file, "nonsense").unwrap();
    kill_process(keeper, Signal::KILL).unwrap();
    wait_until("another keeper has started another daemon", || {
        sandbox.is_served() && sandbox.pid() != pid
    });
    assert_eq!(configured.status()["budget"], 20 << 20);
    configured.run(&["umount", sandbox.at.to_str().unwrap()]);
}

#[test]
fn secrets_are_in_no_argument_list_and_no_environment() {
    let cache = Cache::new();
    let offers = ["a", "b", "c"].map(|name| Offer::named(name, file(name.as_bytes())));
    offers.iter().for_each(|offer| cache.put(offer));
    let server = Server::new(cache.dir().to_owned(), |_, _| Answer::Password(BASIC));
    let url = server.url.replace("http://", "http://user:secret@");
    let sandbox = Sandbox::empty();
    let key = key(&cache);
    sandbox.mount_from(&[&url], &key, "");
    let check = |offer: &Offer| {
        let path = sandbox.store().join(offer.path().base_name());
        assert_eq!(fs::read(path).unwrap(), offer.path().name().as_bytes());
        for process in [sandbox.pid(), sandbox.keeper()] {
            for what in ["cmdline", "environ"] {
                let text = fs::read(format!("/proc/{process}/{what}")).unwrap();
                let text = String::from_utf8_lossy(&text);
                assert!(!text.contains("secret"), "{process}: {text}");
            }
        }
        assert!(!sandbox.narfs(&["status", "--json"]).contains("secret"));
    };
    check(&offers[0]);
    kill_daemon(&sandbox);
    check(&offers[1]);
    sandbox.narfs(&["upgrade"]);
    check(&offers[2]);
}

/// A frame of the control socket.
fn frame(kind: u8, payload: &Value) -> Vec<u8> {
    let payload = payload.to_string().into_bytes();
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    [&[kind][..], &length, &payload].concat()
}

/// The frames that a daemon answers with.
fn answers(sandbox: &Sandbox, said: &[Vec<u8>]) -> Vec<(char, String)> {
    let mut stream = UnixStream::connect(sandbox.state.join("control.sock")).unwrap();
    stream.write_all(&said.concat()).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let (mut frames, mut rest) = (Vec::new(), &all[..]);
    while let [kind, l0, l1, l2, l3, after @ ..] = rest {
        let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
        let text = String::from_utf8_lossy(&after[..length]).into_owned();
        frames.push((char::from(*kind), text));
        rest = &after[length..];
    }
    frames
}

#[test]
fn another_version_gets_a_sentence() {
    let sandbox = Sandbox::mounted();
    let newer = json!({"protocol": 99, "program": "9.9"});
    let request = json!({"NoSuchRequest": {"at": 1}});
    let said = answers(&sandbox, &[frame(b'V', &newer), frame(b'C', &request)]);
    let [('V', version), ('F', failure)] = &said[..] else {
        panic!("{said:?}");
    };
    let version: Value = serde_json::from_str(version).unwrap();
    assert_eq!(version["program"], env!("CARGO_PKG_VERSION"));
    let failure: Value = serde_json::from_str(failure).unwrap();
    assert_eq!(failure["kind"], "unknown");
    let text = failure["message"].as_str().unwrap();
    for part in ["narfs 9.9 (protocol 99)", "narfs upgrade", "NoSuchRequest"] {
        assert!(text.contains(part), "{text}");
    }
    // Of the time before there were versions: a text, and reports as they were.
    let said = answers(&sandbox, &[frame(b'C', &request)]);
    assert!(
        matches!(&said[..], [('E', text)] if text.contains("narfs upgrade")),
        "{said:?}"
    );
    let said = answers(&sandbox, &[frame(b'C', &json!("Pins"))]);
    assert!(
        matches!(&said[..], [('R', report)] if report == r#"{"Pins":[]}"#),
        "{said:?}"
    );
    // What fails says of what kind it is.
    let absent = json!({"Ls": {"path": "0".repeat(32), "recursive": false}});
    let said = answers(&sandbox, &[frame(b'V', &newer), frame(b'C', &absent)]);
    let failure: Value = serde_json::from_str(&said[1].1).unwrap();
    assert_eq!(failure["kind"], "absent", "{failure}");
}

#[test]
fn a_daemon_says_why_there_are_no_sources() {
    let sandbox = Sandbox::empty();
    let configured = Configured::new(&sandbox, "\nfrom = []\n");
    configured.run(&["mount", sandbox.at.to_str().unwrap()]);
    let prefetch = ["prefetch", &"0".repeat(32)];
    let complaint = sandbox.complaint(&prefetch);
    let line = format!("{}:2: from = []", configured.file.display());
    assert!(
        complaint.contains(&line) && complaint.contains("--from"),
        "{complaint}"
    );
}
