//! A SOCKS proxy of the environment.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::binary_cache::{Cache, Offer, file};
use crate::program::{Ran, State};
use crate::server::{Answer, Server};

/// A proxy that leads every name to one server, and notes the names.
struct Proxy {
    address: String,
    names: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let target = server.url.strip_prefix("http://").unwrap().to_owned();
        let names: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = names.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (target, noted) = (target.clone(), noted.clone());
                // A client that goes away is no failure of the proxy.
                std::thread::spawn(move || lead(client, &target, &noted).ok());
            }
        });
        Self { address, names }
    }
}

/// Answers one client as RFC 1928 says, without a password.
fn lead(mut client: TcpStream, target: &str, names: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut read = |length: usize| -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        client.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    let methods = read(2)?;
    assert_eq!(methods[0], 5, "the client does not speak SOCKS 5");
    read(methods[1].into())?;
    client.write_all(&[5, 0])?;
    let mut read = |length: usize| -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        client.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    let request = read(4)?;
    let name = match request[3] {
        3 => {
            let length = read(1)?[0];
            String::from_utf8(read(length.into())?).unwrap()
        }
        kind => {
            let length = if kind == 1 { 4 } else { 16 };
            format!("{:?}", read(length)?)
        }
    };
    read(2)?;
    names.lock().unwrap().push(name);
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let mut server = TcpStream::connect(target)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || io::copy(&mut from_client, &mut to_server).ok());
    io::copy(&mut server, &mut client)?;
    Ok(())
}

#[test]
fn a_socks_proxy_is_spoken_to_as_one_and_resolves_names() {
    let cache = Cache::new();
    let offer = Offer::named("hello", file(b"hello"));
    cache.put(&offer);
    let server = Server::new(cache.dir().to_owned(), |_, _| Answer::File);
    let proxy = Proxy::to(&server);
    for variable in ["all_proxy", "ALL_PROXY", "http_proxy"] {
        let state = State::new();
        let mut arguments = vec!["copy".to_owned(), offer.path().base_name()];
        arguments.extend(cache.arguments_from("http://cache.invalid"));
        let mut command = state.command(&arguments);
        command.env(variable, format!("socks5h://{}", proxy.address));
        Ran::of(&mut command).succeeds().counts(1, 0);
    }
    let names = proxy.names.lock().unwrap();
    assert!(!names.is_empty());
    assert!(
        names.iter().all(|name| name == "cache.invalid"),
        "{names:?}"
    );
}
