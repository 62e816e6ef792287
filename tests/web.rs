//! Downloads through the machine's curl and wget, from a server on loopback with good and bad responses.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use qus::package::{Downloader, WebError, scheme};

/// Returns the available programs. With `QUS_REQUIRE_KERNEL`, curl must be available.
fn tools() -> Vec<&'static str> {
    let is_here = |tool: &&str| Command::new(tool).arg("--version").output().is_ok();
    let tools: Vec<_> = ["curl", "wget"].into_iter().filter(is_here).collect();
    if tools.is_empty() {
        eprintln!("skipped: neither curl nor wget is installed");
    }
    let required = std::env::var_os("QUS_REQUIRE_KERNEL").is_some();
    assert!(!required || tools.contains(&"curl"), "QUS_REQUIRE_KERNEL is set, but curl is not installed");
    tools
}

/// Starts a server that answers every request, by its path, until the test ends. Returns its address.
fn server(answer: fn(&str, &mut TcpStream)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let Some(Ok(request)) = lines.next() else { return };
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                answer(request.split(' ').nth(1).unwrap(), &mut stream);
            });
        }
    });
    address
}

fn content() -> Vec<u8> {
    (0..300_000_u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect()
}

fn ok(stream: &mut TcpStream, length: usize, content: &[u8]) {
    // A client closes the connection once it has enough.
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    let _ = stream.write_all(content);
}

fn answer(path: &str, stream: &mut TcpStream) {
    let content = content();
    let redirect = |stream: &mut TcpStream, to: &str| {
        let _ = write!(stream, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
    };
    match path {
        "/good" => ok(stream, content.len(), &content),
        "/moved" => redirect(stream, "/good"),
        "/circle" => redirect(stream, "/circle"),
        "/secure" => redirect(stream, "https://127.0.0.1:1/good"),
        "/file" => redirect(stream, "file:///etc/passwd"),
        "/cut" => ok(stream, content.len() + 1, &content),
        "/endless" => {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            while stream.write_all(&content).is_ok() {}
        }
        "/stalls" => {
            ok(stream, content.len(), &content[..10_000]);
            thread::sleep(Duration::from_mins(1));
        }
        "/silent" => thread::sleep(Duration::from_mins(1)),
        "/drips" => {
            ok(stream, content.len(), b"");
            for byte in content.chunks(1) {
                thread::sleep(Duration::from_millis(200));
                if stream.write_all(byte).is_err() {
                    return;
                }
            }
        }
        "/garbage" => drop(stream.write_all(&[0xff; 5000])),
        _ => drop(stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\noops")),
    }
}

#[test]
fn a_file_comes_whole() {
    let address = server(answer);
    for tool in tools() {
        let mut file = Downloader::default().tool(tool).download(&format!("{address}/good"), &()).unwrap();
        let mut got = Vec::new();
        std::io::Seek::rewind(&mut file).unwrap();
        file.read_to_end(&mut got).unwrap();
        assert!(got == content(), "{tool}");
    }
    if tools().contains(&"curl") {
        Downloader::default().tool("curl").download(&format!("{address}/moved"), &()).unwrap();
    }
}

#[test]
fn what_does_not_come_is_an_error() {
    let address = server(answer);
    for tool in tools() {
        for path in ["/missing", "/cut", "/circle", "/secure", "/file", "/garbage"] {
            if (tool, path) == ("wget", "/garbage") {
                // wget accepts a response without a header as HTTP/0.9.
                continue;
            }
            let result = Downloader::default().tool(tool).download(&format!("{address}{path}"), &());
            let Err(WebError::Failed { messages, .. }) = result else { panic!("{tool} {path}: {result:?}") };
            assert!(!messages.is_empty());
        }
        let unreachable = Downloader::default().tool(tool).download("http://127.0.0.1:1/x", &());
        assert!(matches!(unreachable, Err(WebError::Failed { .. })), "{tool}: {unreachable:?}");
    }
}

#[test]
fn too_much_is_given_up() {
    let address = server(answer);
    for tool in tools() {
        let web = Downloader::default().tool(tool).size(1 << 20);
        for path in ["/endless", "/good"] {
            let error = web.download(&format!("{address}{path}"), &()).unwrap_err();
            assert_eq!(error.to_string(), format!("{address}{path} is larger than 1 MiB"), "{tool}");
        }
    }
}

#[test]
fn a_server_that_stalls_is_given_up() {
    let address = server(answer);
    for tool in tools() {
        let web = Downloader::default().tool(tool).stall_timeout(Duration::from_secs(1));
        for path in ["/stalls", "/silent", "/drips"] {
            let begin = Instant::now();
            let error = web.download(&format!("{address}{path}"), &()).unwrap_err();
            assert!(matches!(error, WebError::Stalled(..)), "{tool} {path}: {error:?}");
            assert!(begin.elapsed() < Duration::from_secs(30));
        }
    }
}

#[test]
fn a_missing_program_is_reported() {
    let error =
        Downloader::default().tool("no-such-program").download("http://127.0.0.1:1/x", &()).unwrap_err();
    let message = "cannot download http://127.0.0.1:1/x: this machine has neither curl nor wget";
    assert_eq!(error.to_string(), message);
}

#[test]
fn addresses_are_distinguished_from_paths() {
    let is = |text: &str| scheme(Path::new(text));
    assert_eq!((is("http://a"), is("HTTPS://a/b")), (Some("http"), Some("https")));
    for path in ["http:/a", "https", "./http://a", "ftp://a", "file:///a", "-", "", "é"] {
        assert_eq!(is(path), None, "{path}");
    }
}

/// Runs `qus fetch` for arm from `source` into a directory with an interpreter, and expects that the directory stays
/// unchanged. Returns the message.
fn refused(source: &str, more: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("qemu-arm-static");
    std::fs::write(&file, "old").unwrap();
    let Output { status, stderr, .. } = Command::new(env!("CARGO_BIN_EXE_qus"))
        .args(["fetch", "arm", "--from", source, "--dest"])
        .arg(directory.path())
        .args(more)
        .output()
        .unwrap();
    assert_eq!(status.code(), Some(2));
    assert_eq!(std::fs::read(&file).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    String::from_utf8(stderr).unwrap()
}

#[test]
fn a_digest_is_compared_before_anything_is_read() {
    if tools().is_empty() {
        return;
    }
    let source = format!("{}/good", server(answer));
    let message = refused(&source, &[]);
    assert!(message.contains("is not protected against changes in transit"), "{message}");
    assert!(
        message.contains(&format!(
            "hint: give the SHA-256 that the publisher prints: qus fetch --from {source} --sha256 HEX arm"
        )),
        "{message}"
    );
    let wrong = "0".repeat(64);
    let message = refused(&source, &["--sha256", &wrong]);
    assert!(message.contains("/good is another file: its SHA-256 is "), "{message}");
    let right = message.split("its SHA-256 is ").nth(1).unwrap().split(',').next().unwrap();
    // With the right digest, qus reads the file, and refuses its format.
    let message = refused(&source, &["--sha256", right]);
    assert!(message.contains("/good is not a package, archive, "), "{message}");

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, content()).unwrap();
    let path = file.path().to_str().unwrap();
    assert!(refused(path, &["--sha256", &wrong]).contains("is another file: its SHA-256 is "));
    assert!(refused(path, &["--sha256", right]).contains("is not a package, archive, "));
    assert!(refused("/", &["--sha256", right]).contains("/ is a directory, which has no SHA-256"));
    assert!(refused(path, &["--sha256", "abc"]).contains("not 64 hexadecimal digits"));
}
