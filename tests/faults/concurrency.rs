//! Several commands at once on a state that no daemon serves.

use std::process::{Child, Stdio};

use crate::binary_cache::{Cache, Offer, file, noise};
use crate::program::{Ran, State};
use crate::waiting::wait_until;

#[test]
fn of_several_copies_at_once_one_owns_the_state_and_the_others_say_who() {
    let cache = Cache::new();
    let offer = Offer::named("hello", file(&noise(1, 1 << 20)));
    cache.put(&offer);
    for round in 0..2 {
        let state = State::new();
        let mut arguments = vec!["copy".to_owned(), "--all".to_owned()];
        // The first request to a server that hangs: nobody else gets the state meanwhile.
        let gate = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let slow = format!("http://{}", gate.local_addr().unwrap());
        arguments.extend(cache.arguments());
        arguments.extend(["--from".to_owned(), slow]);
        let spawn = |_| {
            let mut command = state.command(&arguments);
            let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
            piped.spawn().unwrap()
        };
        let mut running: Vec<_> = (0..6).map(spawn).collect();
        // The winner is the one that asks the server.
        gate.set_nonblocking(true).unwrap();
        let mut asking = None;
        wait_until("one asks the server", || {
            asking = gate.accept().ok();
            asking.is_some()
        });
        let mut losers = Vec::new();
        wait_until("the others have ended", || {
            let has_ended = |c: &mut Child| c.try_wait().unwrap().is_some();
            losers.extend(running.extract_if(.., |c| has_ended(c)));
            losers.len() == 5
        });
        let winner = running.remove(0);
        let named = format!("is owned by process {} (", winner.id());
        for loser in losers {
            let output = loser.wait_with_output().unwrap();
            let dir = state.dir().display().to_string();
            Ran { output }.fails(&[&dir, &named]);
        }
        drop((asking, gate));
        let output = winner.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "round {round}");
        state.has_exactly(&[]);
    }
}

#[test]
fn short_commands_wait_for_each_other() {
    let cache = Cache::new();
    let offer = Offer::named("hello", file(&noise(1, 1 << 16)));
    cache.put(&offer);
    let state = State::new();
    state.copy(&cache, &["--all"]).succeeds();
    let base = offer.path().base_name();
    let running: Vec<_> = (0..6)
        .map(|_| {
            let mut command = state.command(&["ls", &base]);
            let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
            piped.spawn().unwrap()
        })
        .collect();
    for command in running {
        let output = command.wait_with_output().unwrap();
        Ran { output }.succeeds();
    }
}
