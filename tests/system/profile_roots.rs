//! What a command on a profile counts on: it stays while the command runs, whatever is collected
//! meanwhile, and what the profile will need is known when the command is done.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use serde_json::{Value, json};

use crate::binary_cache::{Cache, Offer, Tree, nar, path};
use crate::on_demand::key;
use crate::server::{Answer, Refusing, Server};
use crate::support::{Sandbox, run, succeed};

/// A package with a program of its name, and a file that names what is installed with it.
fn package(name: &str, propagated: &str, references: &[&Offer]) -> Offer {
    let bin = Tree::Directory(vec![(name, Tree::Program(name.as_bytes()))]);
    let file = Tree::File(propagated.as_bytes());
    let support = Tree::Directory(vec![("propagated-user-env-packages", file)]);
    let tree = Tree::Directory(vec![("bin", bin), ("nix-support", support)]);
    let references: Vec<_> = references.iter().map(|o| o.path()).collect();
    Offer::named(name, nar(&tree)).referring(&references)
}

fn full(offer: &Offer) -> String {
    format!("/nix/store/{}", offer.path())
}

/// `app` is installed with `tool` and needs `library`, which needs `base`.
struct Packages {
    cache: Cache,
    base: Offer,
    library: Offer,
    tool: Offer,
    app: Offer,
}

impl Packages {
    fn new() -> Self {
        let base = package("base", "", &[]);
        let library = package("library", "", &[&base]);
        let tool = package("tool", "", &[]);
        let app = package("app", &full(&tool), &[&library, &tool]);
        let cache = Cache::new();
        for offer in [&base, &library, &tool, &app] {
            cache.put(offer);
        }
        Self {
            cache,
            base,
            library,
            tool,
            app,
        }
    }

    fn narinfo(&self, offer: &Offer) -> String {
        format!("/{}.narinfo", offer.path().hash())
    }

    fn nar(&self, offer: &Offer) -> String {
        format!("/{}", offer.info.url)
    }

    /// Serves the cache, counting.
    fn serve(&self) -> Server {
        Server::new(self.cache.dir().to_owned(), |_, _| Answer::File)
    }

    /// Serves the cache. The first who asks for `place` waits until something is sent; that
    /// somebody waits is told first.
    fn serve_gated(&self, place: String) -> (Server, Receiver<()>, Sender<()>) {
        let (asked, waits) = channel();
        let (opens, opened) = channel();
        let (asked, opened) = (Mutex::new(asked), Mutex::new(opened));
        let server = Server::new(self.cache.dir().to_owned(), move |at, before| {
            if at == place && before == 0 {
                asked.lock().unwrap().send(()).unwrap();
                opened.lock().unwrap().recv().unwrap();
            }
            Answer::File
        });
        (server, waits, opens)
    }

    fn all(&self) -> [&Offer; 4] {
        [&self.base, &self.library, &self.tool, &self.app]
    }

    /// The arguments of a command after which the profile `x` leads to the app.
    fn command(&self, sandbox: &Sandbox, command: &str) -> Vec<String> {
        let app = self.app.path().base_name();
        let file = self.declared(sandbox);
        let mut arguments = match command {
            "apply" => vec!["apply", file.to_str().unwrap()],
            _ => vec!["profile", "-p", "x"],
        };
        if command != "apply" {
            arguments.extend(command.split(' '));
            arguments.push(&app);
        }
        arguments.into_iter().map(str::to_owned).collect()
    }

    /// The file that declares a profile `x` with the app, and one that is the library.
    fn declared(&self, sandbox: &Sandbox) -> PathBuf {
        let file = sandbox.dir().join("profiles.toml");
        let text = format!(
            "[profile.x]\npackages = [\"{}\"]\n[profile.y]\nset = \"{}\"\n",
            self.app.path(),
            self.library.path()
        );
        fs::write(&file, text).unwrap();
        file
    }
}

/// Base names, sorted, of what `path-info` says of the closure of a path, without any source.
fn known_closure(sandbox: &Sandbox, path: &str) -> BTreeSet<String> {
    let file = sandbox.dir().join("offline.toml");
    fs::write(&file, "from = []\n").unwrap();
    let mut command = sandbox.command(&["path-info", "--closure", path]);
    let said = succeed(command.env("NARFS_CONFIG", &file));
    said.lines().map(str::to_owned).collect()
}

fn closure(offers: &[&Offer]) -> BTreeSet<String> {
    offers.iter().map(|o| full(o)).collect()
}

/// What the current generation of a profile points to.
fn current(sandbox: &Sandbox, profile: &str) -> String {
    let history = sandbox.json(&["profile", "-p", profile, "history"]);
    let generations = history.as_array().unwrap().iter();
    let mut current = generations.filter(|g| g["current"] == true);
    current.next().unwrap()["path"].as_str().unwrap().to_owned()
}

/// Runs a command on the mounted state, collects while it waits for `place`, and lets it go on.
/// What the collection took; the command must succeed.
fn collected_within(
    packages: &Packages,
    place: String,
    arguments: impl FnOnce(&Sandbox) -> Vec<String>,
) -> (Sandbox, Value) {
    let (server, waits, opens) = packages.serve_gated(place);
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&packages.cache), "");
    let mut command = sandbox.command(&arguments(&sandbox));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let command = command.spawn().unwrap();
    waits.recv().unwrap();
    let report = sandbox.json(&["gc"]);
    opens.send(()).unwrap();
    let ended = command.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(0), "{stderr}");
    (sandbox, report["paths"].clone())
}

#[test]
fn a_collection_takes_nothing_that_a_command_on_profiles_is_about_to_root() {
    let packages = Packages::new();
    let app = packages.app.path().base_name();
    // The app is here, and what is installed with it is on its way; or what it needs is.
    let tool = packages.nar(&packages.tool);
    let library = packages.nar(&packages.library);
    let known = packages.narinfo(&packages.base);
    for (command, place) in [
        ("install", &tool),
        ("apply", &tool),
        ("install --prefetch", &library),
        ("install", &known),
        ("set", &known),
        ("apply", &known),
    ] {
        let (sandbox, taken) = collected_within(&packages, place.clone(), |sandbox| {
            packages.command(sandbox, command)
        });
        let what = format!("{command}, {place}");
        assert_eq!(taken, json!([]), "{what}");
        let known = known_closure(&sandbox, &current(&sandbox, "x"));
        let all = closure(&packages.all());
        assert!(known.is_superset(&all), "{what}: {known:?}");
        sandbox.bind_to_nix(&sandbox.at);
        let profile = sandbox.at.join("var/nix/profiles/x");
        let program = fs::read(profile.join("bin/app")).unwrap();
        assert_eq!(program, b"app", "{what}");
        // Now they are roots.
        assert_eq!(sandbox.json(&["gc"])["paths"], json!([]), "{what}");
        assert_eq!(sandbox.json(&["verify"])["failures"], json!([]), "{what}");
        assert_eq!(known_closure(&sandbox, &app), all, "{what}");
    }
}

#[test]
fn the_closure_of_what_is_installed_set_or_applied_is_known_afterwards_for_one_narinfo_each() {
    let packages = Packages::new();
    let all = packages.all();
    for command in ["install", "set", "apply"] {
        let server = packages.serve();
        let sandbox = Sandbox::empty();
        let arguments = packages.command(&sandbox, command);
        let again = || {
            let mut run = sandbox.command(&arguments);
            run.args(packages.cache.arguments_from(&server.url));
            succeed(&mut run)
        };
        again();
        let mut expected: HashMap<_, _> = all.iter().map(|o| (packages.narinfo(o), 1)).collect();
        expected.insert("/nix-cache-info".into(), 1);
        // The packages of an environment are looked into.
        let looked_into = match command {
            "set" => vec![],
            _ => vec![&packages.app, &packages.tool],
        };
        expected.extend(looked_into.iter().map(|o| (packages.nar(o), 1)));
        assert_eq!(server.all_requests(), expected, "{command}");
        let target = current(&sandbox, "x");
        let mut known = closure(&all);
        known.insert(target.clone());
        assert_eq!(known_closure(&sandbox, &target), known, "{command}");
        // A listing shows what is local.
        sandbox.mount();
        let mut local: Vec<_> = looked_into.iter().map(|o| full(o)).collect();
        if command != "set" {
            local.push(target);
        }
        let mut listing = sandbox.listing();
        listing
            .iter_mut()
            .for_each(|name| name.insert_str(0, "/nix/store/"));
        local.sort();
        assert_eq!(listing, local, "{command}");
        sandbox.unmount();
        // And once more costs nothing.
        again();
        assert_eq!(server.all_requests(), expected, "{command} again");
    }
}

#[test]
fn what_is_needed_and_not_known_to_any_source_is_a_warning() {
    let gone = path("gone");
    let cache = Cache::new();
    let app = package("app", "", &[]).referring(&[&gone]);
    cache.put(&app);
    let sandbox = Sandbox::empty();
    let app = app.path().base_name();
    for command in ["install", "set"] {
        let mut run_it = sandbox.command(&["profile", "-p", command, command, &app]);
        let ran = run(run_it.args(cache.arguments()), b"");
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let warning = format!("narfs: warning: /nix/store/{gone} is needed");
        assert!(ran.stderr.starts_with(&warning), "{}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    }
    // With nobody who answers, what is here can be installed all the same.
    let mut run_it = sandbox.command(&["profile", "-p", "late", "install", &app]);
    let refusing = Refusing::new();
    let ran = run(run_it.args(cache.arguments_from(&refusing.url)), b"");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains(&gone.to_string()), "{}", ran.stderr);
}
