//! What a client of the worker protocol sends is read up to its end or its first error, and what is read of
//! targets is what they say.

use crate::nix::derivation;
use crate::nix::store_path::StoreDir;
use crate::nix::worker_protocol::{
    Greeting, Operation, Payload, Reader, Target, TargetOutputs, greet,
};

pub fn run(data: &[u8]) {
    let store = StoreDir::default();
    let _ = derivation::outputs(&store, data);
    let mut reader = Reader::new(data);
    let greeting = Greeting {
        program: "narfs",
        is_trusted: false,
    };
    let Ok(version) = greet(&mut reader, |_| Ok(()), &greeting) else {
        return;
    };
    while let Ok(number) = reader.number() {
        reader.begin();
        match Operation::read(number, version, &store, &mut reader) {
            Ok(Operation::BuildPaths(targets) | Operation::QueryMissing(targets)) => {
                targets.iter().for_each(check);
            }
            Ok(Operation::Refused(refused)) if refused.payload == Payload::Frames => {
                let _ = reader.skip_frames(|_| {});
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

fn check(target: &Target) {
    let path = target.path.to_full(&StoreDir::default());
    let text = match &target.outputs {
        TargetOutputs::None => path,
        // Old clients leave it out.
        TargetOutputs::All if target.text == path => path,
        TargetOutputs::All => format!("{path}!*"),
        TargetOutputs::Named(names) => format!("{path}!{}", names.join(",")),
    };
    assert_eq!(text, target.text);
}
