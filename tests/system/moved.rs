//! NARs that a source has moved since its narinfo was asked for.

use std::fs;

use crate::binary_cache::{Cache, Offer, file, noise};
use crate::on_demand::{directory, key, plain};
use crate::support::Sandbox;

#[test]
fn the_read_that_finds_a_nar_gone_asks_where_it_is_now() {
    let (sandbox, cache) = (Sandbox::empty(), Cache::new());
    let contents = noise(1, 50_000);
    let mut offer = directory("moves", &contents);
    cache.put(&offer);
    let server = plain(&cache);
    sandbox.mount_from(&[&server.url], &key(&cache), "");
    let place = sandbox.store().join(offer.path().base_name()).join("file");
    assert!(fs::read(&place).unwrap() == contents);
    for round in 0..3 {
        sandbox.narfs(&["evict", "--to", "1K"]);
        fs::remove_file(cache.nar_file(&offer)).unwrap();
        offer.info.url = format!("nar/moved-{round}.nar");
        cache.put(&offer);
        let narinfo = format!("/{}.narinfo", offer.path().hash());
        let asked = server.requests(&narinfo);
        assert!(fs::read(&place).unwrap() == contents, "round {round}");
        assert_eq!(server.requests(&narinfo), asked + 1);
    }
}

#[test]
fn another_file_of_the_same_narinfo_is_taken_where_the_first_is_gone() {
    let cache = Cache::new();
    let sandbox = Sandbox::empty();
    let offer = Offer::named("twice", file(b"twice"));
    cache.put(&offer);
    let narinfo = cache.narinfo_file(offer.path());
    let text = fs::read_to_string(&narinfo).unwrap();
    let url = format!("URL: {}\nCompression: none\n", offer.info.url);
    assert!(text.contains(&url), "{text}");
    let first = "URL: nar/gone.nar\nCompression: none\n";
    fs::write(&narinfo, text.replace(&url, &format!("{first}{url}"))).unwrap();
    let server = plain(&cache);
    sandbox.mount_from(&[&server.url], &key(&cache), "");
    let place = sandbox.store().join(offer.path().base_name());
    assert_eq!(fs::read(place).unwrap(), b"twice");
    assert_eq!(server.requests("/nar/gone.nar"), 1);
}
