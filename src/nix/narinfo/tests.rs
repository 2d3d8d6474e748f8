//! Tests of the narinfo text and of trust, with files made and signed by Nix.

use proptest::prelude::*;

use super::*;
use crate::nix::hash::HashAlgo;
use crate::nix::nar::Writer;
use crate::nix::signature::{PublicKey, TrustedKeys};
use crate::nix::store_path::{ContentVerifier, IngestionMethod};

mod limits;

const PUBLIC_KEY: &str = "mkstore-1:7OJX8//zQYnaOCleiA3JfJVLPjlV1AXMq6EW6IdphIA=";

/// An input-addressed path, made by Nix 2.8.
const HELLO: &str = "\
StorePath: /nix/store/p7m7niy2h0ncy6s38lqhi0gld2xf59df-hello-2.10-3
URL: nar/0wmhdr5jmdrmaf4ndbl51yvhdjf6yyqh1g7rk4bklrywadxhfwm8.nar.zst
Compression: zstd
FileHash: sha256:0wmhdr5jmdrmaf4ndbl51yvhdjf6yyqh1g7rk4bklrywadxhfwm8
FileSize: 50926
NarHash: sha256:1bc8g1m8nkrxcy56wyms6l0qazap5mj34ay6f3j1chrjvwn1lcjf
NarSize: 179552
References: lf14gzffsnky8h9cj6mb0rk1d3rdc0jd-glibc-2.36-9+deb12u14
Deriver: 878mx7bhqxf3kxapv0sybyglzwva3cvy-hello-2.10-3.drv
Sig: mkstore-1:mwR7hixRd1o/QxtRett+A+bBiqDWg+N6yNiAsiqiqrAp06MWYOiP8Z/Zl0B+QrF3VyzVkvrFYfPyiRDKMru5BA==
";

/// A content-addressed text with references, made by Nix 2.8.
const MANIFEST: &str = "\
StorePath: /nix/store/yr37lwj0ikv9ny5166w702f38nnvk56n-env-manifest.nix
URL: nar/09ld798g8j0b41pvqriabwk5nqplk394d1r15xb640gi11sgj2rh.nar.zst
Compression: zstd
FileHash: sha256:09ld798g8j0b41pvqriabwk5nqplk394d1r15xb640gi11sgj2rh
FileSize: 295
NarHash: sha256:0ilmp1n2q9swb9xnimp6lw4izpg05gnybb3biz58ihv0haxprd3c
NarSize: 648
References: 9ijy943v32jyjpwk6n45djfrv25m1hvx-bash-5.2.15-2+b13 p7m7niy2h0ncy6s38lqhi0gld2xf59df-hello-2.10-3
Sig: mkstore-1:4XaJeCqHT/5mLjDV9gU2z3/msKkAa/br+z/q8KGm4cWFdiGBMu16RLWtRjAK5YrlrQ0JxL03GgPhxowkADg3CA==
CA: text:sha256:0hhs7qk2gx53jpvk8rmj2yna75kmkjy50ja7hjs70h3x26kmqgl2
";

/// A path made by `nix store make-content-addressed`; it holds `a OUT/bin OUT`.
const SELF_REFERENCE: &str = "\
StorePath: /opt/store/2w2lcpxr8csylrlriwnw56fgnszdmsmw-selfref
URL: nar/0c0q0phxhj20rv8zga09z89891rg7iswgvyisfjm7avw20cwjnbc.nar.xz
Compression: xz
FileHash: sha256:0c0q0phxhj20rv8zga09z89891rg7iswgvyisfjm7avw20cwjnbc
FileSize: 180
NarHash: sha256:1fc0zrq16cspvyd7wzc0a299zfpsvv92vqb0n7mpb2q8czwxzy5m
NarSize: 224
References: 2w2lcpxr8csylrlriwnw56fgnszdmsmw-selfref
CA: fixed:r:sha256:1y0lfsxrdl3w0y01s5szhvywff6149p72495w4g2z701lj1jv5ky
";

/// A narinfo as `guix publish` writes it, its signature shortened.
const GUIX: &str = "\
StorePath: /gnu/store/p7m7niy2h0ncy6s38lqhi0gld2xf59df-hello-2.10
URL: nar/lzop/p7m7niy2h0ncy6s38lqhi0gld2xf59df-hello-2.10
Compression: lzop
FileSize: 1
URL: nar/gzip/p7m7niy2h0ncy6s38lqhi0gld2xf59df-hello-2.10
Compression: gzip
FileSize: 60000
URL: nar/zstd/p7m7niy2h0ncy6s38lqhi0gld2xf59df-hello-2.10
Compression: zstd
NarHash: sha256:1bc8g1m8nkrxcy56wyms6l0qazap5mj34ay6f3j1chrjvwn1lcjf
NarSize: 179552
References: 
Deriver: 878mx7bhqxf3kxapv0sybyglzwva3cvy-hello-2.10.drv
System: x86_64-linux
Signature: 1;guix.example.org;KHNpZ25hdHVyZSk=
";

fn nix() -> StoreDir {
    StoreDir::default()
}

fn parse(text: &str) -> Result<NarInfo, NarInfoError> {
    NarInfo::parse(&nix(), text.as_bytes())
}

fn hello() -> NarInfo {
    parse(HELLO).unwrap()
}

fn keys() -> TrustedKeys {
    [PublicKey::parse(PUBLIC_KEY).unwrap()]
        .into_iter()
        .collect()
}

/// `HELLO` with one line replaced; an empty replacement removes it.
fn with(field: &str, line: &str) -> String {
    let replaced = HELLO.lines().map(|old| match old.strip_prefix(field) {
        Some(rest) if rest.starts_with(':') => line,
        _ => old,
    });
    let lines: Vec<&str> = replaced.filter(|line| !line.is_empty()).collect();
    lines.join("\n") + "\n"
}

#[test]
fn files_of_nix_survive_byte_for_byte() {
    for text in [HELLO, MANIFEST] {
        assert_eq!(parse(text).unwrap().to_text(&nix()), text);
    }
    let info = hello();
    assert_eq!(info.store_path.name(), "hello-2.10-3");
    assert_eq!(info.compression, Compression::Zstd);
    assert_eq!((info.file_size, info.nar_size), (Some(50926), 179_552));
    assert_eq!(info.references.len(), 1);
    assert!(info.deriver.is_some_and(|deriver| deriver.is_derivation()));
}

#[test]
fn signatures_of_nix_are_valid() {
    assert_eq!(
        hello().fingerprint(&nix()),
        "1;/nix/store/p7m7niy2h0ncy6s38lqhi0gld2xf59df-hello-2.10-3;\
         sha256:1bc8g1m8nkrxcy56wyms6l0qazap5mj34ay6f3j1chrjvwn1lcjf;179552;\
         /nix/store/lf14gzffsnky8h9cj6mb0rk1d3rdc0jd-glibc-2.36-9+deb12u14"
    );
    let signed = Trust::Signed {
        key_name: "mkstore-1".into(),
    };
    for text in [HELLO, MANIFEST] {
        assert_eq!(
            parse(text).unwrap().trust(&nix(), &keys()),
            Ok(signed.clone())
        );
    }
}

#[test]
fn whatever_is_signed_cannot_be_changed() {
    let other = "lf14gzffsnky8h9cj6mb0rk1d3rdc0jd-glibc-2.37";
    let changes: [fn(&mut NarInfo); 5] = [
        |info| info.nar_size += 1,
        |info| info.nar_hash = NarHash::of(b""),
        |info| info.references.clear(),
        |info| info.references.push(info.store_path.clone()),
        |info| info.store_path = StorePath::new(info.store_path.hash(), "hello-2.10-4").unwrap(),
    ];
    for change in changes {
        let mut info = hello();
        change(&mut info);
        let distrust = info.trust(&nix(), &keys());
        assert!(
            matches!(distrust, Err(Distrust::BadSignature { .. })),
            "{distrust:?}"
        );
    }
    let mut info = hello();
    info.references[0] = other.parse().unwrap();
    assert!(info.trust(&nix(), &keys()).is_err());
    // The rest is not signed.
    let mut info = hello();
    info.url = "elsewhere".into();
    info.deriver = None;
    info.file_size = None;
    assert!(info.trust(&nix(), &keys()).is_ok());
}

#[test]
fn distrust_says_why() {
    let mut info = hello();
    assert!(matches!(
        info.trust(&nix(), &TrustedKeys::new()),
        Err(Distrust::NoTrustedKey { named, .. }) if named == ["mkstore-1"]
    ));
    let text = info
        .trust(&nix(), &TrustedKeys::new())
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("lacks a signature by a trusted key"),
        "{text}"
    );
    info.signatures.clear();
    let distrust = info.trust(&nix(), &keys());
    assert!(matches!(distrust, Err(Distrust::Unsigned { .. })));
}

#[test]
fn a_content_address_replaces_a_signature_if_the_path_follows_from_it() {
    let nobody = TrustedKeys::new();
    let mut info = parse(MANIFEST).unwrap();
    info.signatures.clear();
    let address = info.ca.unwrap();
    assert_eq!(
        info.trust(&nix(), &nobody),
        Ok(Trust::ContentAddressed { address })
    );
    info.references.pop();
    let distrust = info.trust(&nix(), &nobody).unwrap_err();
    assert!(
        distrust
            .to_string()
            .contains("claims to be content-addressed but isn't")
    );
    // The same file in another store is another path.
    let gnu = StoreDir::parse("/gnu/store").unwrap();
    let info = parse(MANIFEST).unwrap();
    assert!(info.trust(&gnu, &nobody).is_err());
}

#[test]
fn a_self_reference_made_by_nix_is_verified_by_its_content() {
    let store = StoreDir::parse("/opt/store").unwrap();
    let info = NarInfo::parse(&store, SELF_REFERENCE.as_bytes()).unwrap();
    let Ok(Trust::ContentAddressed { address }) = info.trust(&store, &TrustedKeys::new()) else {
        panic!("the path follows from its content address");
    };
    let full = info.store_path.to_full(&store);
    let nar = |content: &str| {
        let mut writer = Writer::new(Vec::new());
        writer.regular(false, content.len() as u64).unwrap();
        writer.contents(content.as_bytes()).unwrap();
        writer.finish().unwrap()
    };
    let verify = |nar: &[u8]| {
        let mut verifier = ContentVerifier::new(&address, &info.store_path.hash(), false).unwrap();
        nar.chunks(50).for_each(|block| verifier.update(block));
        verifier.finish()
    };
    let honest = nar(&format!("a {full}/bin {full}\n"));
    assert_eq!(NarHash::of(&honest), info.nar_hash);
    assert_eq!(verify(&honest), Ok(()));
    let mut blanked = honest.clone();
    let at = honest
        .windows(6)
        .position(|window| window == b"2w2lcp")
        .unwrap();
    blanked[at..at + 32].fill(0);
    assert!(verify(&blanked).is_err());
}

#[test]
fn a_nar_hash_beside_an_honest_content_address_must_agree_with_it() {
    let honest = NarHash::of(b"honest");
    let address = ContentAddress::fixed(IngestionMethod::Nar, honest.into()).unwrap();
    let mut info = hello();
    info.references.clear();
    info.store_path = address.store_path(&nix(), "src", [], false).unwrap();
    info.ca = Some(address);
    info.nar_hash = honest;
    let nobody = TrustedKeys::new();
    assert_eq!(
        info.trust(&nix(), &nobody),
        Ok(Trust::ContentAddressed { address })
    );
    info.nar_hash = NarHash::of(b"evil");
    assert!(matches!(
        info.trust(&nix(), &nobody),
        Err(Distrust::NotContentAddressed { .. })
    ));
    // With a self-reference the hashes differ by nature, and only the content can tell.
    info.store_path = address.store_path(&nix(), "src", [], true).unwrap();
    info.references = vec![info.store_path.clone()];
    assert_eq!(
        info.trust(&nix(), &nobody),
        Ok(Trust::ContentAddressed { address })
    );
}

#[test]
fn a_git_address_needs_a_signature() {
    let address =
        ContentAddress::fixed(IngestionMethod::Git, Hash::of(HashAlgo::Sha1, b"")).unwrap();
    let mut info = hello();
    info.references.clear();
    info.store_path = address.store_path(&nix(), "src", [], false).unwrap();
    info.ca = Some(address);
    let distrust = info.trust(&nix(), &keys());
    assert!(matches!(
        distrust,
        Err(Distrust::GitWithoutSignature { .. })
    ));
    let key = SecretKey::from_seed("mine-1", [1; 32]).unwrap();
    info.sign(&nix(), &key);
    let trusted = [key.to_public()].into_iter().collect();
    assert!(matches!(
        info.trust(&nix(), &trusted),
        Ok(Trust::Signed { .. })
    ));
}

#[test]
fn signing_adds_one_line_and_keeps_the_others() {
    let key = SecretKey::from_seed("mine-1", [1; 32]).unwrap();
    let mut info = hello();
    info.sign(&nix(), &key);
    info.sign(&nix(), &key);
    assert_eq!(info.signatures.len(), 2);
    let text = info.to_text(&nix());
    assert!(text.starts_with(HELLO) && text.lines().count() == HELLO.lines().count() + 1);
    let mine = [key.to_public()].into_iter().collect();
    assert!(parse(&text).unwrap().trust(&nix(), &mine).is_ok());
}

#[test]
fn the_request_is_checked() {
    let info = hello();
    let path = info.store_path.clone();
    assert!(info.verify_request(&path).is_ok());
    assert!(info.verify_request_hash(&path.hash()).is_ok());
    let renamed = StorePath::new(path.hash(), "hello-2.10-4").unwrap();
    assert!(matches!(
        info.verify_request(&renamed),
        Err(NarInfoError::OtherPath { .. })
    ));
    let other = StorePathHash::from_bytes([0; 20]);
    assert!(info.verify_request_hash(&other).is_err());
}

#[test]
fn values_begin_two_bytes_after_the_colon() {
    assert_eq!(parse(&HELLO.replace(": ", ":\t")).unwrap(), hello());
    // Without the space the value is the next line: Nix reads it so.
    let swallowed = with("References", "References:");
    assert!(matches!(
        parse(&swallowed),
        Err(NarInfoError::StorePath {
            field: "References",
            ..
        })
    ));
    let empty = parse(&with("References", "References: ")).unwrap();
    assert!(empty.references.is_empty());
    assert!(empty.to_text(&nix()).contains("\nReferences: \n"));
}

#[test]
fn line_ends_are_strict() {
    for bad in [
        HELLO.trim_end(),
        &HELLO.replace('\n', "\r\n"),
        &format!("{HELLO}\n"),
        &format!("\n{HELLO}"),
        &HELLO.replacen('\n', "\n\n", 1),
        &format!("{HELLO}X"),
        &format!("{HELLO}X:"),
        &format!("{HELLO}X:\n"),
        &format!("{HELLO}X: "),
        "",
        "\n",
    ] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
    assert_eq!(
        parse(&format!("{HELLO}X: y\nSystem: z\n")).unwrap(),
        hello()
    );
}

#[test]
fn required_fields_are_required() {
    for field in ["StorePath", "URL", "NarHash", "NarSize"] {
        let missing = parse(&with(field, ""));
        assert!(
            matches!(missing, Err(NarInfoError::Missing { field: named }) if named == field),
            "{field}"
        );
    }
    for field in [
        "Compression",
        "FileHash",
        "FileSize",
        "References",
        "Deriver",
        "Sig",
    ] {
        assert!(parse(&with(field, "")).is_ok(), "{field}");
    }
}

#[test]
fn no_compression_means_bzip2() {
    for line in ["", "Compression: "] {
        let info = parse(&with("Compression", line)).unwrap();
        assert_eq!(info.compression, Compression::Bzip2);
    }
    let info = parse(&with("Compression", "Compression: lzop")).unwrap();
    assert_eq!(info.compression, Compression::Lzop);
    assert!(matches!(
        parse(&with("Compression", "Compression: zip")),
        Err(NarInfoError::Compression { .. })
    ));
}

#[test]
fn bad_values_are_refused() {
    for (field, value) in [
        (
            "StorePath",
            "/gnu/store/p7m7niy2h0ncy6s38lqhi0gld2xf59df-hello-2.10-3",
        ),
        ("StorePath", "p7m7niy2h0ncy6s38lqhi0gld2xf59df-hello-2.10-3"),
        (
            "StorePath",
            "/nix/store/p7m7niy2h0ncy6s38lqhi0gld2xf59df-hello-2.10-3/bin",
        ),
        ("URL", ""),
        ("URL", "nar/a b"),
        ("FileHash", "x"),
        ("FileHash", ""),
        ("FileSize", "x"),
        ("FileSize", ""),
        ("FileSize", "+1"),
        ("FileSize", "-1"),
        ("FileSize", "99999999999999999999"),
        ("NarHash", "sha1:zycqapkzsb9a15lc3hpyb9wds75f50a1"),
        (
            "NarHash",
            "1bc8g1m8nkrxcy56wyms6l0qazap5mj34ay6f3j1chrjvwn1lcjf",
        ),
        ("NarSize", "0"),
        ("NarSize", "00"),
        ("NarSize", " 1"),
        ("References", "hello"),
        (
            "References",
            "/nix/store/lf14gzffsnky8h9cj6mb0rk1d3rdc0jd-glibc-2.36",
        ),
        ("Deriver", "hello.drv"),
        ("Sig", "mkstore-1"),
        ("Sig", ":AAAA"),
        ("Sig", "mkstore-1:"),
        ("Deriver", "\u{e4}"),
    ] {
        let text = with(field, &format!("{field}: {value}"));
        assert!(parse(&text).is_err(), "{field}: {value}");
    }
    for ca in ["text:md5:x", "fixed:sha256", "fixed:r:sha256:0hhs7"] {
        assert!(parse(&format!("{HELLO}CA: {ca}\n")).is_err(), "{ca}");
    }
    let mut bytes = HELLO.as_bytes().to_vec();
    bytes[70] = 0xff;
    assert!(NarInfo::parse(&nix(), &bytes).is_err());
}

#[test]
fn other_hash_forms_and_an_unknown_deriver_are_read() {
    let hash = hello().nar_hash;
    for form in [Hash::from(hash).to_hex(), hash.to_sri()] {
        let info = parse(&with("NarHash", &format!("NarHash: {form}"))).unwrap();
        assert_eq!(info, hello());
    }
    let info = parse(&with("Deriver", "Deriver: unknown-deriver")).unwrap();
    assert_eq!(info.deriver, None);
    assert!(!info.to_text(&nix()).contains("Deriver"));
    // A signature that cannot be decoded does not count, but does no harm.
    let info = parse(&format!("{HELLO}Sig: other-1:!\n")).unwrap();
    assert!(info.trust(&nix(), &keys()).is_ok());
    assert!(info.to_text(&nix()).ends_with("Sig: other-1:!\n"));
}

#[test]
fn repeated_fields_are_refused() {
    let lines = HELLO
        .lines()
        .chain(MANIFEST.lines().filter(|line| line.starts_with("CA")));
    for line in lines {
        let field = line.split(':').next().unwrap();
        let twice = format!("{HELLO}{line}\n{line}\n");
        match field {
            // Signatures are a set; further URLs are offers.
            "Sig" => assert_eq!(parse(&twice).unwrap(), hello()),
            "URL" => assert_eq!(parse(&twice).unwrap().url, hello().url),
            _ => assert!(
                matches!(parse(&twice), Err(NarInfoError::Duplicate { field: named }) if named == field),
                "{field}"
            ),
        }
    }
    let empty_first = with(
        "References",
        &format!("References: \n{}", HELLO.lines().nth(7).unwrap()),
    );
    assert_eq!(parse(&empty_first).unwrap(), hello());
}

#[test]
fn references_are_sorted_and_unique() {
    let (a, b) = (
        "lf14gzffsnky8h9cj6mb0rk1d3rdc0jd-glibc-2.36-9+deb12u14",
        "9ijy943v32jyjpwk6n45djfrv25m1hvx-bash",
    );
    let info = parse(&with("References", &format!("References: {a}  {b} {a} "))).unwrap();
    let names: Vec<String> = info.references.iter().map(StorePath::base_name).collect();
    assert_eq!(names, [b, a]);
}

#[test]
fn guix_offers_are_chosen_from() {
    let gnu = StoreDir::parse("/gnu/store").unwrap();
    let info = NarInfo::parse(&gnu, GUIX.as_bytes()).unwrap();
    assert_eq!(
        info.url,
        "nar/gzip/p7m7niy2h0ncy6s38lqhi0gld2xf59df-hello-2.10"
    );
    assert_eq!(info.compression, Compression::Gzip);
    assert_eq!(info.file_size, Some(60000));
    assert_eq!(info.file_hash, None);
    let signature = info.guix_signature.unwrap();
    assert_eq!(signature.text, "1;guix.example.org;KHNpZ25hdHVyZSk=");
    let at = GUIX.find("Signature:").unwrap();
    assert_eq!(signature.signed_text, &GUIX.as_bytes()[..at]);

    let early = format!("Signature: 1;h;A\n{GUIX}");
    assert!(NarInfo::parse(&gnu, early.as_bytes()).is_err());
    let zstd = GUIX.replace("Compression: gzip", "Compression: grzip");
    let info = NarInfo::parse(&gnu, zstd.as_bytes()).unwrap();
    assert_eq!(
        (info.compression, info.file_size),
        (Compression::Zstd, None)
    );
}

fn path() -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), "[a-zA-Z0-9+_?=][a-zA-Z0-9+._?=-]{0,20}")
        .prop_map(|(hash, name)| StorePath::new(StorePathHash::from_bytes(hash), &name).unwrap())
}

prop_compose! {
    fn info()(
        store_path in path(),
        url in "[!-~]{1,40}",
        compression in prop_oneof![Just(Compression::None), Just(Compression::Xz), Just(Compression::Lzop)],
        file_hash in any::<Option<[u8; 32]>>(),
        file_size in any::<Option<u64>>(),
        nar_hash in any::<[u8; 32]>(),
        nar_size in 1u64..,
        mut references in proptest::collection::vec(path(), 0..5),
        deriver in proptest::option::of(path()),
        signatures in proptest::collection::btree_set("[a-z.-]{1,9}:[A-Za-z0-9+/=]{1,90}", 0..4),
        ca in any::<Option<[u8; 32]>>(),
    ) -> NarInfo {
        references.sort();
        NarInfo {
            store_path,
            url,
            compression,
            further: Vec::new(),
            file_hash: file_hash.map(Hash::sha256),
            file_size,
            nar_hash: NarHash::from_bytes(nar_hash),
            nar_size,
            references,
            deriver,
            signatures: signatures.iter().map(|text| text.parse().unwrap()).collect(),
            ca: ca.map(|digest| ContentAddress::text(Hash::sha256(digest)).unwrap()),
            unknown_ca: None,
            guix_signature: None,
        }
    }
}

proptest! {
    #[test]
    fn narinfos_survive(info in info()) {
        let text = info.to_text(&nix());
        prop_assert_eq!(parse(&text).unwrap(), info);
    }

    #[test]
    fn damaged_narinfos_never_panic(at in 0..HELLO.len(), byte: u8, cut in 0..HELLO.len()) {
        let mut bytes = HELLO.as_bytes().to_vec();
        bytes[at] = byte;
        let _ = NarInfo::parse(&nix(), &bytes);
        let _ = NarInfo::parse(&nix(), &bytes[..cut]);
    }
}
