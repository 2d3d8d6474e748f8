//! The rules of `builtin:buildenv`, one by one, as real Nix was seen to apply them.

use super::super::memory::Memory;
use super::super::{Directory, Environment, Package, Warning};
use super::{EnvironmentError, PROPAGATED_LIMIT, synthesize, synthesize_within};

/// A store with packages, each a name and its lines.
fn store(packages: &[(&str, &[&str])]) -> Memory {
    let mut memory = Memory::new();
    for (name, lines) in packages {
        memory.add(name, lines);
    }
    memory
}

fn environment(memory: &Memory, packages: &[(&str, i64)]) -> Environment {
    try_environment(memory, packages).unwrap_or_else(|error| panic!("{error}"))
}

fn try_environment(
    memory: &Memory,
    packages: &[(&str, i64)],
) -> Result<Environment, EnvironmentError<std::convert::Infallible>> {
    let packages = packages.iter().map(|(name, p)| memory.package(name, *p));
    let packages: Vec<Package> = packages.collect();
    synthesize(&packages, &memory.store_dir, memory)
}

fn lines(memory: &Memory, packages: &[(&str, i64)]) -> Vec<String> {
    memory.lines(&environment(memory, packages).root)
}

fn error(memory: &Memory, packages: &[(&str, i64)]) -> String {
    match try_environment(memory, packages) {
        Ok(made) => panic!("no error, but {:?}", memory.lines(&made.root)),
        Err(error) => error.to_string(),
    }
}

const FOO: &[&str] = &[
    "bin/foo",
    "bin/foo-alias -> foo",
    "bin/dangling -> nowhere",
    "empty/",
    "lib/foo/deep",
    "lib/dang -> /nonexistent/x",
    "share/doc/foo",
    "share/info/dir",
    "share/info/foo.info",
    "share/log/x",
    "share/linkdir -> ../lib/foo",
    "top -> bin/foo",
    ".hidden",
    "nix-support/propagated-build-inputs",
];

const BAR: &[&str] = &["bin/bar", "lib/bar", "share/linkdir/z"];

#[test]
fn a_single_package_is_linked_by_its_top_level_entries() {
    let memory = store(&[("foo", FOO)]);
    let expected = [
        "bin -> foo/bin",
        "empty -> foo/empty",
        "lib -> foo/lib",
        "share -> foo/share",
        "top -> foo/top",
    ];
    assert_eq!(lines(&memory, &[("foo", 5)]), expected);
    assert_eq!(environment(&memory, &[("foo", 5)]).warnings, []);
}

#[test]
fn two_packages_are_merged_where_both_have_a_directory() {
    let memory = store(&[("foo", FOO), ("bar", BAR)]);
    let expected = [
        "bin/",
        "bin/bar -> bar/bin/bar",
        "bin/foo -> foo/bin/foo",
        "bin/foo-alias -> foo/bin/foo-alias",
        "empty -> foo/empty",
        "lib/",
        "lib/bar -> bar/lib/bar",
        "lib/foo -> foo/lib/foo",
        "share/",
        "share/doc -> foo/share/doc",
        "share/info -> foo/share/info",
        "share/linkdir/",
        "share/linkdir/deep -> foo/lib/foo/deep",
        "share/linkdir/z -> bar/share/linkdir/z",
        "top -> foo/top",
    ];
    assert_eq!(lines(&memory, &[("bar", 5), ("foo", 5)]), expected);
    let made = environment(&memory, &[("foo", 5), ("bar", 5)]);
    let dangling = |path: &str| Warning::Dangling {
        path: path.to_owned(),
        link: format!("{}/{path}", memory.full("foo")),
    };
    assert_eq!(
        made.warnings,
        [dangling("bin/dangling"), dangling("lib/dang")]
    );
    let text = made.warnings[0].to_string();
    assert!(
        text.starts_with("skipping dangling symlink 'bin/dangling'"),
        "{text}"
    );
}

#[test]
fn the_lower_number_wins_whatever_the_order() {
    let mut memory = store(&[("foo", FOO), ("bar", BAR)]);
    memory.add("baz", &["bin/foo", "bin/baz"]);
    memory.add("hi", &["bin/foo"]);
    let target = |packages: &[(&str, i64)]| {
        let lines = lines(&memory, packages);
        let line = lines.iter().find(|l| l.starts_with("bin/foo ")).unwrap();
        line.clone()
    };
    let three = [("foo", 5), ("bar", 5), ("baz", 10)];
    assert_eq!(target(&three), "bin/foo -> foo/bin/foo");
    let four = [("hi", 1), ("foo", 5), ("bar", 5), ("baz", 10)];
    assert_eq!(target(&four), "bin/foo -> hi/bin/foo");
    // A file against a directory that is linked whole and expanded later keeps the priority of
    // that link.
    let late = [("baz", 5), ("hi", 7), ("bar", 9)];
    assert_eq!(target(&late), "bin/foo -> baz/bin/foo");
}

#[test]
fn a_file_lost_to_a_better_priority_is_no_conflict() {
    let memory = store(&[("foo", FOO), ("hi", &["bin/foo"]), ("clash", &["bin/foo"])]);
    let packages = [("hi", 1), ("foo", 5), ("clash", 5)];
    let made = environment(&memory, &packages);
    assert!(
        memory
            .lines(&made.root)
            .contains(&"bin/foo -> hi/bin/foo".to_owned())
    );
    let linked = made.root.linked(&memory.store_dir);
    assert_eq!(
        linked,
        [memory.path("foo"), memory.path("hi")].into(),
        "clash is not linked"
    );
}

#[test]
fn equal_priorities_conflict_even_where_contents_are_equal() {
    let memory = store(&[("foo", FOO), ("clash", &["bin/foo"])]);
    let text = error(&memory, &[("foo", 5), ("clash", 5)]);
    let start =
        memory.fill_in("packages '@clash@/bin/foo' and '@foo@/bin/foo' have the same priority 5; ");
    assert!(text.starts_with(&start), "{text}");
    assert!(text.ends_with("(0 being the highest priority)"), "{text}");
}

/// The table of the pairs in which files, directories and links to directories meet.
#[test]
fn files_directories_and_links_meet_as_in_the_table() {
    let memory = store(&[
        ("d", &["lib/x -> ../etc", "etc/g"]),
        ("a", &["lib/x/f"]),
        ("b", &["lib"]),
        ("c", &["lib"]),
        ("e", &["lib/x/f"]),
        ("f", &["lib/x/f", "broken -> nowhere", "sub/log/q"]),
    ]);
    assert_eq!(lines(&memory, &[("a", 5), ("b", 9)]), ["lib -> a/lib"]);
    let text = error(&memory, &[("a", 5), ("c", 1)]);
    let expected = memory.fill_in("collision between '@a@/lib' and non-directory '@c@/lib'");
    assert_eq!(text, expected);
    assert_eq!(
        lines(&memory, &[("a", 5), ("d", 5)]),
        [
            "etc -> d/etc",
            "lib/",
            "lib/x/",
            "lib/x/f -> a/lib/x/f",
            "lib/x/g -> d/etc/g"
        ]
    );
    // Only a link that gives way is replaced by what it leads to, so the order shows.
    assert_eq!(
        lines(&memory, &[("a", 4), ("d", 5)]),
        [
            "etc -> d/etc",
            "lib/",
            "lib/x/",
            "lib/x/f -> a/lib/x/f",
            "lib/x/g -> d/lib/x/g"
        ]
    );
    let text = error(&memory, &[("a", 5), ("e", 5)]);
    assert!(
        text.contains("/lib/x/f' have the same priority 5"),
        "{text}"
    );
    let made = environment(&memory, &[("a", 5), ("f", 7)]);
    assert_eq!(
        memory.lines(&made.root),
        ["lib/", "lib/x/", "lib/x/f -> a/lib/x/f", "sub -> f/sub"]
    );
    assert_eq!(made.warnings.len(), 1);
    assert_eq!(
        lines(&memory, &[("d", 5), ("f", 7)]),
        [
            "etc -> d/etc",
            "lib/",
            "lib/x/",
            "lib/x/f -> f/lib/x/f",
            "lib/x/g -> d/etc/g",
            "sub -> f/sub"
        ]
    );
}

#[test]
fn a_file_collides_with_a_directory_that_was_expanded() {
    let memory = store(&[("a", &["lib/x/f"]), ("b", &["lib/x/g"]), ("c", &["lib/x"])]);
    let text = error(&memory, &[("a", 5), ("b", 5), ("c", 9)]);
    let expected =
        memory.fill_in("collision between non-directory '@c@/lib/x' and directory 'lib/x'");
    assert_eq!(text, expected);
}

#[test]
fn a_file_replaces_a_link_of_a_worse_priority() {
    // In order of priorities no link is ever replaced; only a priority beyond those of propagated
    // packages, which come last, can lose.
    let memory = store(&[
        ("p", &["bin/f"]),
        (
            "late",
            &["bin/f", "nix-support/propagated-user-env-packages = @p@"],
        ),
    ]);
    assert_eq!(
        lines(&memory, &[("late", 2000)]),
        ["bin/", "bin/f -> p/bin/f"]
    );
}

#[test]
fn names_that_say_nothing_to_the_user_are_left_out() {
    let memory = store(&[
        (
            "a",
            &[
                "propagated-build-inputs",
                "nix-support/x",
                "lib/perllocal.pod",
                "share/info/dir",
                "share/dir",
                "share/info/a",
                "log/x",
                "share/log",
                "manifest.nix",
                "manifest.json",
                "lib/manifest.json/x",
                "lib/logs",
                ".x",
                "bin/.wrapped",
                "bin/a",
            ],
        ),
        ("b", &["lib/b", "share/b", "share/info/b", "bin/b"]),
    ]);
    assert_eq!(
        lines(&memory, &[("a", 5), ("b", 5)]),
        [
            "bin/",
            "bin/a -> a/bin/a",
            "bin/b -> b/bin/b",
            "lib/",
            "lib/b -> b/lib/b",
            "lib/logs -> a/lib/logs",
            "share/",
            "share/b -> b/share/b",
            "share/dir -> a/share/dir",
            "share/info/",
            "share/info/a -> a/share/info/a",
            "share/info/b -> b/share/info/b",
        ]
    );
}

#[test]
fn propagated_packages_come_after_all_others_and_lose() {
    let memory = store(&[
        ("r", &["bin/r", "bin/prop"]),
        (
            "prop",
            &[
                "bin/prop",
                "share/x",
                "bin/foo",
                "nix-support/propagated-user-env-packages = @r@",
            ],
        ),
        ("foo", FOO),
        (
            "withprop",
            &[
                "bin/withprop",
                "nix-support/propagated-user-env-packages = @prop@ @foo@\n",
            ],
        ),
    ]);
    let made = environment(&memory, &[("withprop", 5), ("foo", 900)]);
    let lines = memory.lines(&made.root);
    for line in [
        "bin/foo -> foo/bin/foo",
        "bin/prop -> prop/bin/prop",
        "bin/r -> r/bin/r",
        "bin/withprop -> withprop/bin/withprop",
        "share/x -> prop/share/x",
    ] {
        assert!(
            lines.contains(&line.to_owned()),
            "{line} is not in {lines:#?}"
        );
    }
    let propagated = ["prop", "r"].map(|name| memory.full(name).into_bytes());
    assert_eq!(made.propagated, propagated);
}

#[test]
fn propagated_packages_of_one_round_are_sorted_and_never_collide() {
    let memory = store(&[
        ("z", &["bin/x"]),
        ("y", &["bin/x"]),
        (
            "a",
            &[
                "bin/a",
                "nix-support/propagated-user-env-packages = @y@\n@z@ @y@\n\n",
            ],
        ),
    ]);
    let made = environment(&memory, &[("a", 5)]);
    assert_eq!(
        memory.lines(&made.root),
        ["bin/", "bin/a -> a/bin/a", "bin/x -> z/bin/x"],
        "z sorts first by its hash"
    );
}

#[test]
fn a_propagated_package_must_be_there() {
    let mut memory = Memory::new();
    let gone = "/nix/store/zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz-gone";
    let line = format!("nix-support/propagated-user-env-packages = {gone}");
    memory.add("a", &["bin/a", &line]);
    let text = error(&memory, &[("a", 5)]);
    assert!(
        text.starts_with(&format!("opening directory '{gone}': No such file")),
        "{text}"
    );
    memory.add("b", &["nix-support/propagated-user-env-packages = x/y"]);
    assert!(error(&memory, &[("b", 5)]).starts_with("opening directory 'x/y'"));
    memory.add("c", &["nix-support/propagated-user-env-packages/"]);
    assert!(error(&memory, &[("c", 5)]).contains("is not a file"));
}

#[test]
fn a_package_that_is_a_file_is_left_out_with_a_warning() {
    let mut memory = store(&[("file", &["= text"]), ("dir", &["bin/x"])]);
    memory.add("link", &["-> @dir@"]);
    let made = environment(&memory, &[("file", 5), ("dir", 6)]);
    assert_eq!(memory.lines(&made.root), ["bin -> dir/bin"]);
    let text = made.warnings[0].to_string();
    let expected = memory
        .fill_in("not including '@file@' in the user environment because it's not a directory");
    assert_eq!(text, expected);
    assert_eq!(lines(&memory, &[("link", 5)]), ["bin -> link/bin"]);
}

#[test]
fn inactive_packages_are_not_linked_unless_they_are_propagated() {
    let memory = store(&[
        ("p", &["bin/p"]),
        (
            "a",
            &["bin/a", "nix-support/propagated-user-env-packages = @p@"],
        ),
    ]);
    let mut packages = [memory.package("p", 5), memory.package("a", 5)];
    packages[0].active = false;
    let made = synthesize(&packages, &memory.store_dir, &memory).unwrap();
    assert_eq!(
        memory.lines(&made.root),
        ["bin/", "bin/a -> a/bin/a", "bin/p -> p/bin/p"]
    );
    packages[1].active = false;
    let made = synthesize(&packages, &memory.store_dir, &memory).unwrap();
    assert_eq!(made.root, Directory::default());
}

#[test]
fn a_package_that_is_named_twice_is_linked_once() {
    let memory = store(&[("a", &["bin/a"])]);
    assert_eq!(
        lines(&memory, &[("a", 5), ("a", 5), ("a", 9)]),
        ["bin -> a/bin"]
    );
}

#[test]
fn links_between_store_paths_are_followed() {
    let memory = store(&[
        ("real", &["lib/deep/x", "lib/deep/y -> ../z", "lib/z"]),
        ("abs", &["lib -> @real@/lib/deep", "file -> @real@/lib/z"]),
        ("other", &["lib/o"]),
    ]);
    assert_eq!(
        lines(&memory, &[("abs", 5), ("other", 5)]),
        [
            "file -> abs/file",
            "lib/",
            "lib/o -> other/lib/o",
            "lib/x -> real/lib/deep/x",
            "lib/y -> real/lib/deep/y"
        ]
    );
}

#[test]
fn relative_links_may_climb_through_the_store_directory() {
    let mut memory = store(&[("real", &["lib/deep/x", "z"]), ("other", &["lib/o"])]);
    let base = memory.path("real").to_string();
    memory.add(
        "up",
        &[
            &format!("lib -> ../{base}/lib/deep"),
            &format!("top -> ../../../../../nix/store/{base}/z"),
            &format!("wrong-name -> ../{}-unreal/z", memory.path("real").hash()),
            "file-as-directory -> top/x",
            "slash -> top/",
        ],
    );
    let made = environment(&memory, &[("up", 5), ("other", 5)]);
    assert_eq!(
        memory.lines(&made.root),
        [
            "lib/",
            "lib/o -> other/lib/o",
            "lib/x -> up/lib/x",
            "top -> up/top"
        ]
    );
    assert_eq!(made.warnings.len(), 3);
}

#[test]
fn loops_of_links_end_with_an_error() {
    let memory = store(&[
        ("loop", &["x -> y", "y -> x"]),
        ("self", &["x -> ."]),
        ("self2", &["x -> ."]),
        ("a", &["bin/a"]),
    ]);
    let expected =
        memory.fill_in("getting status of '@loop@/x': Too many levels of symbolic links");
    assert_eq!(error(&memory, &[("loop", 5)]), expected);
    assert_eq!(
        lines(&memory, &[("self", 5), ("a", 5)]),
        ["bin -> a/bin", "x -> self/x"]
    );
    let text = error(&memory, &[("self", 5), ("self2", 5)]);
    assert!(
        text.ends_with("/x/x/x': Too many levels of symbolic links"),
        "{text}"
    );
    assert_eq!(text.matches("/x").count(), 41, "{text}");
}

#[test]
fn a_chain_of_forty_links_is_followed_and_one_more_is_not() {
    let chain = |length: usize| -> Vec<String> {
        let links = (1..length).map(|n| format!("l{n:02} -> l{:02}", n + 1));
        links
            .chain([format!("l{length:02} -> end"), "end".to_owned()])
            .collect()
    };
    let mut memory = Memory::new();
    for (name, length) in [("forty", 40), ("more", 41)] {
        let lines = chain(length);
        memory.add(name, &lines.iter().map(String::as_str).collect::<Vec<_>>());
    }
    assert_eq!(lines(&memory, &[("forty", 5)]).len(), 41);
    assert!(error(&memory, &[("more", 5)]).contains("/l01'"));
}

#[test]
fn directories_that_multiply_by_links_are_given_up() {
    let levels = (0..30).flat_map(|n| {
        let next = n + 1;
        [
            format!("d{n}/x -> ../d{next}"),
            format!("d{n}/y -> ../d{next}"),
        ]
    });
    let levels: Vec<String> = levels.chain(["d30/f".to_owned()]).collect();
    let levels: Vec<&str> = levels.iter().map(String::as_str).collect();
    let memory = store(&[("a", &levels), ("b", &levels)]);
    let text = error(&memory, &[("a", 5), ("b", 6)]);
    assert!(text.contains("directories link to one another"), "{text}");
}

#[test]
fn as_many_names_as_the_limit_are_looked_at_and_one_more_is_not() {
    // `bin` of both, and then what is in it.
    let memory = store(&[("a", &["bin/x", "bin/y"]), ("b", &["bin/z"])]);
    let packages = [memory.package("a", 5), memory.package("b", 5)];
    let within = |limit| synthesize_within(&packages, &memory.store_dir, &memory, limit);
    assert_eq!(memory.lines(&within(5).unwrap().root).len(), 4);
    let error = within(4).unwrap_err().to_string();
    assert!(error.contains("-b/bin/z'; directories"), "{error}");
}

#[test]
fn a_list_of_propagated_packages_has_a_limit() {
    let list = |text: &str| format!("nix-support/propagated-user-env-packages = {text}");
    let longest = " ".repeat(PROPAGATED_LIMIT as usize);
    let more = list(&format!("{longest} "));
    let memory = store(&[("a", &[&list(&longest)]), ("b", &[&more])]);
    assert!(environment(&memory, &[("a", 5)]).propagated.is_empty());
    let text = error(&memory, &[("b", 5)]);
    assert!(text.contains("propagated-user-env-packages"), "{text}");
}

#[test]
fn nothing_lies_out_of_the_store_and_what_leads_above_it_cannot_be_merged() {
    let memory = store(&[
        (
            "a",
            &[
                "etc/null -> /dev/null",
                "etc/hosts -> /etc/hosts",
                "etc/back -> /etc/../nix/store",
                "etc/d -> /nix",
            ],
        ),
        ("b", &["etc/b", "etc/d/x"]),
        ("c", &["etc/c"]),
    ]);
    let made = environment(&memory, &[("a", 5), ("c", 5)]);
    assert_eq!(made.warnings.len(), 3);
    assert_eq!(
        memory.lines(&made.root),
        ["etc/", "etc/c -> c/etc/c", "etc/d -> a/etc/d"]
    );
    let text = error(&memory, &[("a", 5), ("b", 5)]);
    assert!(
        text.starts_with("'/nix' leads to the directory '/nix'"),
        "{text}"
    );
}

#[test]
fn a_large_environment_looks_each_package_up_once() {
    let names: Vec<String> = (0..6_000)
        .map(|n| format!("share/d{}/f{n}", n / 100))
        .collect();
    let mut memory = Memory::new();
    for package in 0..5 {
        let lines: Vec<String> = names
            .iter()
            .map(|name| format!("{name}-{package}"))
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        memory.add(&format!("p{package}"), &lines);
    }
    let packages = ["p0", "p1", "p2", "p3", "p4"].map(|name| (name, 5));
    let mut links = 0;
    environment(&memory, &packages)
        .root
        .each_link(&mut |_, _| links += 1);
    assert_eq!(links, 30_000);
    let lookups = memory.lookups.borrow();
    assert_eq!(lookups.len(), 5);
    assert!(lookups.values().all(|count| *count == 1), "{lookups:?}");
}

#[test]
fn the_order_of_the_list_does_not_matter() {
    let memory = store(&[
        ("foo", FOO),
        ("bar", BAR),
        ("baz", &["bin/foo", "share/doc/baz"]),
    ]);
    let packages = [("foo", 5), ("bar", 5), ("baz", 10)];
    let expected = lines(&memory, &packages);
    let mut reversed = packages;
    reversed.reverse();
    assert_eq!(lines(&memory, &reversed), expected);
}
