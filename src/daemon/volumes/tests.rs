//! Requests of container engines and their answers, without HTTP and without a mount.

use std::path::Path;

use super::*;
use crate::fetch;
use crate::store::{ProfileChange, Registration, Store, StoreOptions};

/// An engine with two registered paths.
struct State {
    dir: tempfile::TempDir,
    volumes: Volumes,
    a: StorePath,
    b: StorePath,
}

impl State {
    /// Without sources.
    fn new() -> Self {
        Self::with_sources(|_| Vec::new())
    }

    fn with_sources(from: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            memory: 16 << 20,
            create: true,
            store_dir: None,
        };
        let store = Store::open(&dir.path().join("state"), &options).unwrap();
        let add = |name: &str| {
            let file = dir.path().join(name);
            std::fs::write(&file, name).unwrap();
            fetch::add(&store, &file, name).unwrap()
        };
        let (a, b) = (add("a"), add("b"));
        let sources = SourceRequest {
            from: from(dir.path()),
            ..SourceRequest::default()
        };
        let engine = Arc::new(Engine::new(Arc::new(store), sources, None));
        let volumes = Volumes::new(engine, Arc::default());
        Self { dir, volumes, a, b }
    }

    fn ask(&self, request: &str, body: &Value) -> (u16, Value) {
        self.send(request, body.to_string().as_bytes())
    }

    fn send(&self, request: &str, body: &[u8]) -> (u16, Value) {
        let endpoint = format!("/VolumeDriver.{request}");
        let answer = self.volumes.answer(&endpoint, body);
        (answer.status, answer.body)
    }

    fn named(&self, request: &str, name: &str) -> (u16, Value) {
        self.ask(request, &json!({ "Name": name }))
    }

    fn create(&self, name: &str, options: &Value) -> (u16, Value) {
        self.ask("Create", &json!({ "Name": name, "Opts": options }))
    }

    fn registration(&self, path: &StorePath) -> Registration {
        let info = self.volumes.engine.store.paths().info(path.hash()).unwrap();
        info.unwrap().registration
    }

    fn full(&self, path: &StorePath) -> String {
        self.volumes.engine.full(path)
    }

    /// The error text of a request that fails with this status.
    #[track_caller]
    fn said((status, body): (u16, Value), expected: u16) -> String {
        assert_eq!(status, expected, "{body}");
        let said = body["Err"].as_str().unwrap().to_owned();
        assert_eq!(body, json!({ "Err": said }));
        assert!(!said.is_empty() && !said.contains('\n'), "{said:?}");
        said
    }
}

#[track_caller]
fn assert_done(answer: (u16, Value)) {
    assert_eq!(answer, (200, json!({ "Err": "" })));
}

#[test]
fn it_says_what_it_is_whatever_the_body() {
    let state = State::new();
    for body in [&b""[..], b"{}", b"null", b"\xff\x00"] {
        let answer = state.volumes.answer("/Plugin.Activate", body);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, json!({ "Implements": ["VolumeDriver"] }));
        let local = json!({ "Capabilities": { "Scope": "local" } });
        assert_eq!(state.send("Capabilities", body), (200, local));
        let none = json!({ "Volumes": [], "Err": "" });
        assert_eq!(state.send("List", body), (200, none));
    }
}

#[test]
fn a_volume_is_made_used_and_removed() {
    let state = State::new();
    let [a, b] = [&state.a, &state.b].map(|p| state.full(p));
    let options = json!({ "closure": format!("{a}:{}", state.b.hash()) });
    assert_done(state.create("v", &options));
    let (status, got) = state.named("Get", "v");
    assert_eq!((status, &got["Err"]), (200, &json!("")));
    let volume = &got["Volume"];
    assert_eq!(volume["Name"], "v");
    assert_eq!(volume["Mountpoint"], "");
    let status = json!({
        "closure": [a, b],
        "profile": [],
        "paths": 2,
        "incomplete": false,
        "unknown": [],
        "removable": true,
    });
    assert_eq!(volume["Status"], status);
    let made = state
        .volumes
        .engine
        .store
        .views()
        .table()
        .named("v")
        .unwrap()
        .record
        .created;
    assert_eq!(volume["CreatedAt"], timestamp(made));
    let listed = json!({ "Volumes": [volume], "Err": "" });
    assert_eq!(state.send("List", b"{}"), (200, listed));

    let nowhere = json!({ "Mountpoint": "", "Err": "" });
    assert_eq!(state.named("Path", "v"), (200, nowhere));
    let id = "b87d7442095999a92b65b3d9691e697b61713829cc0ffd1bb72e4ccd51aa4d6c";
    let mount = json!({ "Name": "v", "ID": id });
    let said = State::said(state.ask("Mount", &mount), 500);
    assert!(said.contains("narfs mount MOUNTPOINT"), "{said}");
    assert_done(state.ask("Unmount", &mount));

    assert_done(state.named("Remove", "v"));
    assert_done(state.ask("Unmount", &mount));
    for request in ["Get", "Path", "Mount", "Remove"] {
        let said = State::said(state.named(request, "v"), 500);
        assert!(said.contains("no closure view \"v\""), "{request}: {said}");
    }
    assert!(
        state
            .volumes
            .engine
            .store
            .views()
            .list()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_volume_is_made_once() {
    let state = State::new();
    let [a, b] = [&state.a, &state.b].map(|p| state.full(p));
    let both = json!({ "closure": format!("{a}:{b}") });
    assert_done(state.create("v", &both));
    let first = state
        .volumes
        .engine
        .store
        .views()
        .table()
        .named("v")
        .unwrap()
        .clone();
    // The same definition in other words, or no definition.
    assert_done(state.create("v", &both));
    assert_done(state.create("v", &json!({ "closure": format!("{}:{b}:{a}", state.b) })));
    for none in [json!({}), json!(null)] {
        assert_done(state.create("v", &none));
    }
    assert_done(state.named("Create", "v"));
    let said = State::said(state.create("v", &json!({ "closure": a })), 500);
    assert!(said.contains(&format!("-o closure={a}:{b}")), "{said}");
    let with_profile = json!({ "closure": format!("{a}:{b}"), "profile": "p" });
    State::said(state.create("v", &with_profile), 500);
    let table = state.volumes.engine.store.views().table();
    assert!(
        Arc::ptr_eq(&first, table.named("v").unwrap()),
        "nothing was written"
    );
}

#[test]
fn of_many_that_make_it_at_once_one_does() {
    let state = State::new();
    let definitions = [&state.a, &state.b].map(|p| json!({ "closure": state.full(p) }));
    for round in 0..20 {
        let name = format!("v{round}");
        let statuses = std::thread::scope(|scope| {
            let all: Vec<_> = (0..6)
                .map(|n| {
                    scope.spawn({
                        let (state, name, options) = (&state, &name, &definitions[n % 2]);
                        move || (n % 2, state.create(name, options).0)
                    })
                })
                .collect();
            all.into_iter()
                .map(|t| t.join().unwrap())
                .collect::<Vec<_>>()
        });
        let view = state
            .volumes
            .engine
            .store
            .views()
            .table()
            .named(&name)
            .unwrap()
            .clone();
        let won = usize::from(view.record.roots == [state.b.clone()]);
        for (definition, status) in statuses {
            assert_eq!(status, if definition == won { 200 } else { 500 });
        }
    }
}

#[test]
fn a_view_that_was_there_is_adopted_and_only_let_go() {
    let state = State::new();
    let store = &state.volumes.engine.store;
    let name = ViewName::parse("web").unwrap();
    store
        .views()
        .define(&name, std::slice::from_ref(&state.a), &[])
        .unwrap();
    let listed = state.send("List", b"").1;
    assert_eq!(listed["Volumes"][0]["Name"], "web");
    assert_done(state.named("Create", "web"));
    let got = state.named("Get", "web").1;
    assert_eq!(got["Volume"]["Status"]["removable"], false);
    assert_done(state.named("Remove", "web"));
    assert!(store.views().table().named("web").is_some());
    // Volumes created by the plugin are removed by it, even if they were redefined since.
    let a = state.full(&state.a);
    assert_done(state.create("made", &json!({ "closure": a })));
    let name = ViewName::parse("made").unwrap();
    store
        .views()
        .define(&name, std::slice::from_ref(&state.b), &[])
        .unwrap();
    assert_done(state.named("Remove", "made"));
    assert!(store.views().table().named("made").is_none());
}

#[test]
fn a_volume_follows_profiles_that_are_there() {
    let state = State::new();
    let set = |name: &str, current: u64, path: &StorePath| {
        let change = ProfileChange {
            name: name.to_owned(),
            current: (current > 0).then_some(current),
            generations: vec![(1, path.clone(), 1000)],
        };
        state
            .volumes
            .engine
            .store
            .profiles()
            .change(|_| Ok(vec![change]))
            .unwrap();
    };
    set("p", 1, &state.a);
    set("per-user/ann/q", 1, &state.b);
    set("off", 0, &state.b);
    let options = json!({ "profile": "p:per-user/ann/q" });
    assert_done(state.create("v", &options));
    let got = state.named("Get", "v").1;
    assert_eq!(
        got["Volume"]["Status"]["profile"],
        json!(["p", "per-user/ann/q"])
    );
    assert_eq!(got["Volume"]["Status"]["paths"], 2);
    assert_done(state.create("v", &options));
    assert_eq!(got["Volume"]["Status"]["incomplete"], false);
    // Paths that no source knows are reported.
    let [c, unknown] = ["c", "d"].map(|letter| {
        let text = format!("{}-name", letter.repeat(32));
        StorePath::parse_base_name(text.as_bytes()).unwrap()
    });
    let registration = Registration {
        references: vec![unknown.clone()],
        path: c.clone(),
        ..state.registration(&state.a)
    };
    state
        .volumes
        .engine
        .store
        .paths()
        .register(&[(registration, None)])
        .unwrap();
    set("p", 1, &c);
    let got = &state.named("Get", "v").1["Volume"]["Status"];
    assert_eq!(got["incomplete"], true);
    assert_eq!(got["unknown"][0]["path"], state.full(&unknown));
    for (profile, expected) in [
        ("none", "there is no profile 'none'"),
        ("off", "no current generation"),
        ("/p", "begins or ends with '/'"),
        ("p::q", "has an empty value"),
    ] {
        let answer = state.create("w", &json!({ "profile": profile }));
        let status = if profile == "p::q" { 400 } else { 500 };
        let said = State::said(answer, status);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn what_is_no_request_is_answered_with_what_one_is() {
    let state = State::new();
    let a = state.full(&state.a);
    let deep = "[".repeat(100_000);
    for body in [
        "",
        "{",
        "[]",
        "null",
        "\"v\"",
        "{}",
        "{\"Name\": 1}",
        "{\"name\": \"v\"}",
        "\u{feff}{}",
        &deep,
    ] {
        for request in ["Create", "Remove", "Mount", "Unmount", "Path", "Get"] {
            let said = State::said(state.send(request, body.as_bytes()), 400);
            assert!(said.contains(request) && said.contains("Name"), "{said}");
        }
    }
    State::said(state.send("Get", b"{\"Name\": \"\xff\"}"), 400);
    for name in [
        "",
        "a/b",
        "..",
        "/etc",
        "a\0b",
        "-v",
        "a b",
        &"a".repeat(129),
    ] {
        for request in ["Create", "Remove", "Mount", "Unmount", "Path", "Get"] {
            let body = json!({ "Name": name, "Opts": { "closure": a } });
            let said = State::said(state.ask(request, &body), 400);
            assert!(said.contains("is no name for a closure view"), "{said}");
        }
    }
    assert!(
        state
            .volumes
            .engine
            .store
            .views()
            .list()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn options_and_endpoints_that_there_are_not_are_answered_with_those_that_there_are() {
    let state = State::new();
    let a = state.full(&state.a);
    for options in [
        json!([]),
        json!("closure"),
        json!({ "closure": 1 }),
        json!({ "closure": null }),
    ] {
        State::said(state.create("v", &options), 400);
    }
    for (options, expected) in [
        (json!({ "closure": "" }), "closure= has an empty value"),
        (json!({ "closure": format!("{a}:") }), "has an empty value"),
        (
            json!({ "device": a }),
            "no option \"device\"; the options are closure=PATH",
        ),
    ] {
        let said = State::said(state.create("v", &options), 400);
        assert!(said.contains(expected), "{said}");
    }
    let said = State::said(state.named("Create", "v"), 500);
    assert!(
        said.contains("-o closure=PATH") && said.contains("narfs closure"),
        "{said}"
    );
    let answer = |endpoint: &str| {
        let answer = state.volumes.answer(endpoint, b"{}");
        State::said((answer.status, answer.body), 404)
    };
    for unknown in [
        "/",
        "",
        "/VolumeDriver.Resize",
        "/NetworkDriver.Join",
        "/volumedriver.get",
    ] {
        assert!(answer(unknown).contains("/VolumeDriver.Create"));
    }
    assert!(
        state
            .volumes
            .engine
            .store
            .views()
            .list()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn what_cannot_be_shown_is_named() {
    let state = State::new();
    let absent = "/nix/store/00000000000000000000000000000000-x";
    for (closure, expected) in [
        (absent, "no source is configured"),
        ("/etc", "is not a store path"),
        ("no-such-package", "no-such-package"),
        (&format!("{}/bin", state.full(&state.a)), "/bin"),
    ] {
        let said = State::said(state.create("v", &json!({ "closure": closure })), 500);
        assert!(said.contains(expected), "{said}");
    }
    let empty = State::with_sources(|dir| {
        let cache = dir.join("cache");
        std::fs::create_dir(&cache).unwrap();
        std::fs::write(cache.join("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
        vec![format!("file://{}", cache.display())]
    });
    let said = State::said(empty.create("v", &json!({ "closure": absent })), 500);
    assert!(said.contains("00000000000000000000000000000000"), "{said}");
    // No process listens there.
    let away = State::with_sources(|_| vec!["http://127.0.0.1:9".to_owned()]);
    let said = State::said(away.create("v", &json!({ "closure": absent })), 500);
    assert!(said.contains("127.0.0.1:9"), "{said}");
    // Local paths need no source.
    assert_done(away.create("v", &json!({ "closure": away.full(&away.a) })));
    for state in [&state, &empty] {
        assert!(
            state
                .volumes
                .engine
                .store
                .views()
                .list()
                .unwrap()
                .is_empty()
        );
    }
    drop(state.dir);
}

#[test]
fn times_are_those_of_a_calendar() {
    for (seconds, expected) in [
        (-1, "1970-01-01T00:00:00Z"),
        (0, "1970-01-01T00:00:00Z"),
        (951_782_399, "2000-02-28T23:59:59Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (951_868_800, "2000-03-01T00:00:00Z"),
        (1_735_689_599, "2024-12-31T23:59:59Z"),
        (1_795_816_800, "2026-11-27T22:00:00Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
    ] {
        assert_eq!(timestamp(seconds), expected);
    }
}
