//! Uses by real processes, and processes that cannot be inspected.

use std::process::{Child, Command, Stdio};

use std::thread;

use super::*;

fn hash(digit: &str) -> (String, StorePathHash) {
    let text = digit.repeat(32);
    let hash = text.parse().unwrap();
    (text, hash)
}

/// A process that is killed at the end of the test.
struct Sleeper(Child);

impl Sleeper {
    fn start(command: &mut Command) -> Self {
        let child = command.arg("60").stdin(Stdio::null()).spawn().unwrap();
        Self(child)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn found(which: Use) -> HashMap<StorePathHash, PathBuf> {
    in_use(which, None).unwrap().hashes
}

#[test]
fn store_paths_are_found_wherever_they_are_mounted() {
    let ((a, _), (b, _)) = (hash("1"), hash("2"));
    let maps = format!(
        "7f00-7f01 r--p 00000000 00:42 7 /nix/store/{a}-glibc/lib/libc.so.6\n\
         7f01-7f02 r--p 00000000 00:42 7 /mnt/x/{b}-hello/bin/hello (deleted)\n\
         7f02-7f03 r--p 00000000 00:42 7 /nix/store/{}-e/x\n",
        "e".repeat(32)
    );
    let mut found = Vec::new();
    process::find(maps.as_bytes(), |hash| found.push(hash.to_string()));
    assert_eq!(found, [a, b]);
}

#[test]
fn a_file_that_another_process_has_open_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let (text, hash) = hash("3");
    let file = dir.path().join(format!("{text}-x"));
    fs::write(&file, "x").unwrap();
    assert!(!found(Use::Open).contains_key(&hash));
    let mut command = Command::new("tail");
    let _tail = Sleeper::start(command.arg("-f").arg(&file).arg("-s"));
    wait_until(|| found(Use::Open).contains_key(&hash));
}

#[test]
fn what_a_process_has_in_its_environment_is_known_but_not_open() {
    let (text, hash) = hash("4");
    let mut command = Command::new("sleep");
    let command = command.env("WHERE", format!("/bin:/some/store/{text}-x/bin"));
    let sleeper = Sleeper::start(command);
    assert!(!found(Use::Open).contains_key(&hash));
    let environ = format!("/proc/{}/environ", sleeper.0.id());
    assert_eq!(found(Use::Known).get(&hash), Some(&environ.into()));
}

/// Inspections that find `hash` in each process, and hang at `hangs` until its channel closes.
fn seeing(hash: StorePathHash, hangs: Option<(Process, Receiver<()>)>) -> Inspect {
    let hangs = hangs.map(|(at, wait)| (at, Mutex::new(wait)));
    Arc::new(move |tasks: Vec<Task>, sender: &Sender<Inspected>| {
        for Task { process, inside } in tasks {
            let _ = sender.send(Inspected::Outside(Found::default()));
            if inside {
                if let Some((at, wait)) = &hangs
                    && *at == process
                {
                    let _ = wait.lock().unwrap().recv();
                }
                let mut all = Found::default();
                all.hashes.insert(hash, "x".into());
                let _ = sender.send(Inspected::All(all));
            }
        }
    })
}

const LONG: Duration = Duration::from_secs(600);

/// Timeouts of which the first alone may pass.
fn wait(first: Duration) -> Timeouts {
    let later = LONG;
    Timeouts { first, later }
}

/// Waits until something is so, which takes a moment.
fn wait_until(mut is_so: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60));
        thread::yield_now();
    }
}

#[test]
fn no_more_threads_than_the_limit_hang_at_processes() {
    let own = std::process::id();
    let own = Process {
        number: own,
        start: start_of(own).unwrap(),
    };
    let (_, hash) = hash("7");
    let go_on = Arc::new(Mutex::new(()));
    let stay = go_on.lock().unwrap();
    let mut memory = Memory::default();
    let mut hang = |from: usize, to: usize| {
        for start in from..to {
            let wait = go_on.clone();
            let thread = thread::spawn(move || drop(wait.lock()));
            let process = Process {
                number: 0,
                start: start as u64,
            };
            memory.hanging.insert(process, thread);
        }
        let inspect = seeing(hash, None);
        let seen = memory.scan(Use::Open, vec![own], Found::default(), &inspect, wait(LONG));
        let seen = seen.unwrap();
        (seen.hashes.contains_key(&hash), seen.unseen.len())
    };
    assert_eq!(hang(0, MAX_HANGING - 1), (true, 0));
    // It is looked at from outside, and what it used last counts.
    assert_eq!(hang(MAX_HANGING - 1, MAX_HANGING), (true, 1));
    assert_eq!(memory.hanging.len(), MAX_HANGING);
    drop(stay);
}

#[test]
fn of_a_process_that_cannot_be_looked_at_what_it_used_last_counts_and_others_are_seen() {
    let process = |number| Process {
        number,
        start: start_of(number).unwrap(),
    };
    let (own, first) = (process(std::process::id()), process(1));
    let ((_, before), (_, now)) = (hash("5"), hash("6"));
    let mut memory = Memory::default();
    let mut scan = |processes: &[Process], inspect: &Inspect, timeout| {
        let (processes, inspect) = (processes.to_vec(), inspect.clone());
        let timeouts = wait(timeout);
        let seen = memory.scan(Use::Open, processes, Found::default(), &inspect, timeouts);
        let seen = seen.unwrap();
        let mut hashes: Vec<_> = seen.hashes.into_keys().collect();
        hashes.sort();
        let unseen = seen.unseen.into_iter().map(|u| {
            assert!(!u.name.is_empty() && u.since > 1_000_000_000, "{u:?}");
            u.process
        });
        (hashes, unseen.collect::<Vec<_>>())
    };
    assert_eq!(
        scan(&[own], &seeing(before, None), LONG),
        (vec![before], vec![])
    );
    let (go_on, wait) = mpsc::channel();
    let hanging = seeing(now, Some((own, wait)));
    let mut both = vec![before, now];
    both.sort();
    let expected = (both, vec![own.number]);
    let short = Duration::from_millis(50);
    assert_eq!(scan(&[own, first], &hanging, short), expected);
    // A process that hangs is not waited for again.
    assert_eq!(scan(&[own, first], &hanging, LONG), expected);
    drop(go_on);
    wait_until(|| scan(&[own], &seeing(now, None), LONG) == (vec![now], vec![]));
}
