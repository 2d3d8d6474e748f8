//! What a narinfo may have several or many of.

use super::*;

#[test]
fn further_files_are_kept_in_their_order() {
    let gnu = StoreDir::parse("/gnu/store").unwrap();
    let info = NarInfo::parse(&gnu, GUIX.as_bytes()).unwrap();
    let further: Vec<_> = info.further.iter().map(|f| f.compression).collect();
    assert_eq!(further, [Compression::Zstd]);
    assert!(info.further[0].url.starts_with("nar/zstd/"));
    assert!(parse(HELLO).unwrap().further.is_empty());
    let many = "URL: nar/x\nCompression: none\n".repeat(100);
    assert_eq!(parse(&format!("{HELLO}{many}")).unwrap().further.len(), 8);
}

#[test]
fn signatures_are_a_bounded_set_and_references_may_be_many() {
    use std::fmt::Write;
    let lines = |n: usize| {
        (0..n).fold(String::new(), |mut text, i| {
            writeln!(text, "Sig: other-{i}:b").unwrap();
            text
        })
    };
    let own = hello().signatures.len();
    let info = parse(&format!("{HELLO}{}", lines(1_000 - own))).unwrap();
    assert_eq!(info.signatures.len(), 1_000);
    assert!(info.trust(&nix(), &keys()).is_ok());
    let error = parse(&format!("{HELLO}{}", lines(1_001 - own))).unwrap_err();
    assert!(error.to_string().contains("too many signatures"), "{error}");
    let twice = format!("{HELLO}{}", "Sig: same-1:b\n".repeat(5_000));
    assert_eq!(parse(&twice).unwrap().signatures.len(), own + 1);

    let references = (0u64..20_000).map(|i| {
        let mut hash = [0; 20];
        hash[..8].copy_from_slice(&i.to_le_bytes());
        StorePath::new(StorePathHash::from_bytes(hash), "r").unwrap()
    });
    let mut many = hello();
    many.references = references.collect();
    let again = parse(&many.to_text(&nix())).unwrap();
    assert_eq!(again.references.len(), 20_000);
}
