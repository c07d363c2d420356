//! Downloads against a server on the loopback interface that behaves, and one that does not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "pull/hub.rs"]
mod hub;
#[path = "common/server.rs"]
mod server;

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use server::{Request, Server, answer, serve, status};
use sha2::{Digest, Sha256};
use wayinfer::pull::{Origin, Patience, PullError, PullOptions, Reference, pull};

/// `n` bytes that begin as a model does and repeat nowhere.
fn content(n: usize, seed: u64) -> Arc<Vec<u8>> {
    let mut state = seed;
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 32) as u8
    })
    .take(n)
    .collect();
    bytes[..4].copy_from_slice(b"GGUF");
    Arc::new(bytes)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn options(folder: &Path, server: &Server) -> PullOptions {
    PullOptions {
        folder: folder.to_owned(),
        endpoint: server.url.clone(),
        token: None,
        connections: 4,
        force: false,
        patience: Patience {
            stall: Duration::from_millis(300),
            first_wait: Duration::from_millis(5),
            longest_wait: Duration::from_secs(1),
            attempts: 5,
        },
    }
}

fn get(options: &PullOptions, name: &str) -> Result<PathBuf, PullError> {
    pull(&name.parse::<Reference>()?, options, &mut |p| assert!(p.done <= p.total, "{p:?}"))
}

fn get_url(folder: &Path, server: &Server) -> Result<PathBuf, PullError> {
    get(&options(folder, server), &format!("{}/m.gguf", server.url))
}

/// What lies in a folder, names sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const WHOLE: [&str; 2] = ["m.gguf", "m.gguf.origin.json"];

/// Fetches from a server with `behave` and checks that the bytes arrive whole.
fn arrives(n: usize, behave: impl Fn(&Request, &mut TcpStream, &[u8]) + Send + Sync + 'static) -> Server {
    let bytes = content(n, 1);
    let served = Arc::clone(&bytes);
    let server = Server::start(move |request, out| behave(request, out, &served));
    let folder = tempfile::tempdir().unwrap();
    let path = get_url(folder.path(), &server).unwrap();
    assert!(fs::read(&path).unwrap() == **bytes, "other bytes than the server's");
    assert_eq!(names(folder.path()), WHOLE);
    server
}

#[test]
fn a_file_arrives_whole_and_is_not_fetched_twice() {
    let bytes = content(3 << 20, 1);
    let served = Arc::clone(&bytes);
    let server = Server::start(move |request, out| serve(request, out, &served, "\"v1\""));
    let folder = tempfile::tempdir().unwrap();
    let path = get_url(folder.path(), &server).unwrap();
    assert!(fs::read(&path).unwrap() == **bytes);
    assert_eq!(names(folder.path()), WHOLE);
    assert_eq!(Origin::of(&path).unwrap().url, format!("{}/m.gguf", server.url));
    let before = server.n_requests();
    get_url(folder.path(), &server).unwrap();
    assert_eq!(server.n_requests(), before + 1, "it was asked about, and not fetched");
    // Another file of that name is not overwritten.
    fs::write(&path, b"mine").unwrap();
    assert!(matches!(get_url(folder.path(), &server), Err(PullError::Exists { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    let force = PullOptions { force: true, ..options(folder.path(), &server) };
    get(&force, &format!("{}/m.gguf", server.url)).unwrap();
    assert!(fs::read(&path).unwrap() == **bytes);
}

#[test]
fn a_server_that_drops_connections_is_asked_for_the_rest() {
    let server = arrives(1 << 20, |request, out, bytes| {
        let (head, body) = answer(request, bytes, "\"v1\"");
        let _ = out.write_all(head.as_bytes());
        let _ = out.write_all(&body[..body.len().min(100_000)]);
    });
    let requests = server.requests.lock().unwrap();
    assert!(requests.len() >= 10, "{}", requests.len());
    // Each one goes on behind the one before, under the condition that the file is the same.
    let starts: Vec<_> = requests[1..].iter().map(|r| r.range().unwrap().0).collect();
    assert!(starts.is_sorted() && starts[1] > 0, "{starts:?}");
    assert!(requests[1..].iter().all(|r| r.header("if-range") == Some("\"v1\"")));
}

#[test]
fn a_server_that_stalls_is_left_and_asked_again() {
    let began = Instant::now();
    arrives(1 << 20, |request, out, bytes| {
        let (head, body) = answer(request, bytes, "\"v1\"");
        let _ = out.write_all(head.as_bytes());
        if request.number == 1 {
            let _ = out.write_all(&body[..5000]);
            std::thread::sleep(Duration::from_secs(5));
        }
        let _ = out.write_all(body);
    });
    assert!(began.elapsed() < Duration::from_secs(4), "the stall was waited out: {:?}", began.elapsed());
}

#[test]
fn faults_that_pass_are_waited_out_and_a_server_is_left_alone_as_it_asks() {
    for fault in ["500 Oh", "502 Bad Gateway", "503 Busy", "504 Late", "408 Slow", "429 Too Many Requests"] {
        let server = arrives(50_000, move |request, out, bytes| match request.number {
            0 | 2 | 3 => status(out, fault, ""),
            _ => serve(request, out, bytes, "\"v1\""),
        });
        assert_eq!(server.n_requests(), 5, "{fault}");
    }
    let began = Instant::now();
    arrives(50_000, |request, out, bytes| match request.number {
        1 => status(out, "429 Too Many Requests", "Retry-After: 1\r\n"),
        _ => serve(request, out, bytes, "\"v1\""),
    });
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[test]
fn a_server_without_ranges_gives_the_file_in_one_piece_or_again() {
    arrives(1 << 20, |_, out, bytes| {
        let _ = write!(out, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
        let _ = out.write_all(bytes);
    });
    // And where it breaks off, what is here already is passed over.
    let lengths = [300_000, 500_000, 1 << 20];
    let server = arrives(1 << 20, move |request, out, bytes| {
        let _ = write!(out, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
        let n = request.number.checked_sub(1).map_or(bytes.len(), |n| lengths[n.min(2)]);
        let _ = out.write_all(&bytes[..n]);
    });
    assert_eq!(server.n_requests(), 4);
}

#[test]
fn a_file_that_changes_while_it_is_fetched_is_begun_again() {
    for by_status in [true, false] {
        let (old, new) = (content(1 << 20, 1), content(900_000, 2));
        let (first, second) = (Arc::clone(&old), Arc::clone(&new));
        let server = Server::start(move |request, out| match request.number {
            0 => serve(request, out, &first, "\"v1\""),
            1 => {
                let (head, body) = answer(request, &first, "\"v1\"");
                let _ = out.write_all(head.as_bytes()).and_then(|()| out.write_all(&body[..300_000]));
            }
            // Either it keeps to If-Range and sends all of the new one, or it only tells by its tag.
            _ if by_status => serve(request, out, &second, "\"v2\""),
            _ => {
                let unconditional: Vec<_> =
                    request.headers.iter().filter(|(key, _)| key != "if-range").cloned().collect();
                serve(&Request { headers: unconditional, ..request.clone() }, out, &second, "\"v2\"");
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let path = get_url(folder.path(), &server).unwrap();
        assert!(fs::read(path).unwrap() == **new, "bytes of two versions, or of the old one");
        assert_eq!(names(folder.path()), WHOLE);
    }
}

#[test]
fn a_file_that_keeps_changing_is_given_up() {
    let versions = AtomicUsize::new(0);
    let server = Server::start(move |request, out| {
        let version = versions.fetch_add(1, Ordering::Relaxed);
        serve(request, out, &content(50_000, 1), &format!("\"v{version}\""));
    });
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(get_url(folder.path(), &server), Err(PullError::Changing { .. })));
    assert!(!folder.path().join("m.gguf").exists());
}

#[test]
fn a_file_that_got_shorter_answers_416_and_is_begun_again() {
    let (old, new) = (content(1 << 20, 1), content(200_000, 2));
    let (first, second) = (Arc::clone(&old), Arc::clone(&new));
    // Without any tag: only lengths tell.
    let server = Server::start(move |request, out| {
        let bytes = if request.number < 2 { &first } else { &second };
        let (head, body) = answer(request, bytes, "");
        let body = if request.number == 1 { &body[..300_000] } else { body };
        let _ = out.write_all(head.replace("ETag: \r\n", "").as_bytes()).and_then(|()| out.write_all(body));
    });
    let folder = tempfile::tempdir().unwrap();
    let path = get_url(folder.path(), &server).unwrap();
    assert!(fs::read(path).unwrap() == **new);
    assert!(server.requests.lock().unwrap()[2].range().unwrap().0 >= 200_000, "no 416 was asked for");
}

#[test]
fn a_server_that_lies_about_what_it_sends_is_found_out() {
    // Another range than asked for.
    let bytes = content(500_000, 1);
    let served = Arc::clone(&bytes);
    let server = Server::start(move |request, out| {
        let shifted = request.number > 0;
        let (head, body) = answer(request, &served, "\"v1\"");
        let head = if shifted { head.replace("bytes 0-", "bytes 7-") } else { head };
        let _ = out.write_all(head.as_bytes()).and_then(|()| out.write_all(body));
    });
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(get_url(folder.path(), &server), Err(PullError::Protocol { .. })));

    // More bytes than it says: what is too much is not taken.
    arrives(100_000, |request, out, bytes| {
        serve(request, out, bytes, "\"v1\"");
        let _ = out.write_all(&[7; 5000]);
    });

    // Never as many as it says, and none at all in the end.
    let server = Server::start(move |request, out| {
        let (head, body) = answer(request, &bytes, "\"v1\"");
        let n = if request.number < 2 { body.len().min(1000) } else { 0 };
        let _ = out.write_all(head.as_bytes()).and_then(|()| out.write_all(&body[..n]));
    });
    let folder = tempfile::tempdir().unwrap();
    let error = get_url(folder.path(), &server).unwrap_err();
    assert!(matches!(error, PullError::Broken { .. } | PullError::Network { .. }), "{error}");
    assert_eq!(names(folder.path()), ["m.gguf.part", "m.gguf.part.json"], "what came is kept");
}

#[test]
fn what_is_no_model_is_refused_before_it_is_fetched() {
    let page = b"<html>please log in</html>".repeat(1000);
    let server = Server::start(move |request, out| serve(request, out, &page, "\"v1\""));
    let folder = tempfile::tempdir().unwrap();
    let error = get_url(folder.path(), &server).unwrap_err();
    assert!(matches!(&error, PullError::NotGguf { found, .. } if found == b"<htm"), "{error}");
    assert!(names(folder.path()).is_empty());

    // Without a length nobody knows when it is whole.
    let server = Server::start(|_, out| {
        let _ = out.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nGGUFxxxx");
    });
    assert!(matches!(get_url(folder.path(), &server), Err(PullError::Protocol { .. })));
}

#[test]
fn refusals_say_what_to_do_and_are_not_repeated() {
    for (answer, words) in [
        ("401 Unauthorized", "HF_TOKEN"),
        ("403 Forbidden", "terms"),
        ("404 Not Found", "spelling"),
        ("418 Teapot", "mirror"),
    ] {
        let server = Server::start(move |_, out| status(out, answer, ""));
        let folder = tempfile::tempdir().unwrap();
        let error = get_url(folder.path(), &server).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(&answer[..3]), "{error}");
        assert_eq!(server.n_requests(), 1, "{answer}");
    }
    let server = Server::start(|_, out| status(out, "503 Busy", ""));
    let folder = tempfile::tempdir().unwrap();
    assert!(get_url(folder.path(), &server).unwrap_err().to_string().contains("503"));
    assert_eq!(server.n_requests(), 5);
}

#[test]
fn redirects_are_followed_so_far_and_a_token_stays_with_its_host() {
    let bytes = content(400_000, 1);
    let served = Arc::clone(&bytes);
    let store = Server::start(move |request, out| serve(request, out, &served, "\"v1\""));
    let target = format!("{}/signed/m.gguf?key=1", store.url);
    let hub = Server::start(move |request, out| match request.path.as_str() {
        "/m.gguf" => status(out, "307 Temporary Redirect", "Location: /again.gguf\r\n"),
        _ => status(out, "302 Found", &format!("Location: {target}\r\n")),
    });
    let folder = tempfile::tempdir().unwrap();
    let options = PullOptions { token: Some("secret".into()), ..options(folder.path(), &hub) };
    let path = get(&options, &format!("{}/m.gguf", hub.url)).unwrap();
    assert!(fs::read(path).unwrap() == **bytes);
    let authorized =
        |server: &Server| server.requests.lock().unwrap().iter().all(|r| r.header("authorization").is_some());
    assert!(authorized(&hub));
    assert!(!store.requests.lock().unwrap().iter().any(|r| r.header("authorization").is_some()));

    let circle = Server::start(|_, out| status(out, "302 Found", "Location: /m.gguf\r\n"));
    let folder = tempfile::tempdir().unwrap();
    let error = get_url(folder.path(), &circle).unwrap_err().to_string();
    assert!(error.contains("10 redirects"), "{error}");
    for nowhere in ["ftp://x/m.gguf", "file:///etc/passwd", "https://"] {
        let server = Server::start(move |_, out| status(out, "302 Found", &format!("Location: {nowhere}\r\n")));
        assert!(get_url(folder.path(), &server).is_err(), "{nowhere}");
    }
}

#[test]
fn a_signed_address_that_aged_is_asked_for_anew() {
    let bytes = content(800_000, 1);
    let served = Arc::clone(&bytes);
    let server = Server::start(move |request, out| match request.path.split_once("?at=") {
        None => status(out, "302 Found", &format!("Location: /m.gguf?at={}\r\n", request.number)),
        // Good for one request, and that breaks off.
        Some((_, at)) if at.parse::<usize>().unwrap() + 1 == request.number => {
            let (head, body) = answer(request, &served, "\"v1\"");
            let _ = out.write_all(head.as_bytes()).and_then(|()| out.write_all(&body[..body.len().min(300_000)]));
        }
        Some(_) => status(out, "403 Forbidden", ""),
    });
    let folder = tempfile::tempdir().unwrap();
    assert!(fs::read(get_url(folder.path(), &server).unwrap()).unwrap() == **bytes);
}

#[test]
fn several_connections_share_a_file_on_a_slow_line() {
    // Longer than one range, so that there is something to share, and the first range takes longer than another
    // connection waits.
    let bytes = content(68 << 20, 1);
    let served = Arc::clone(&bytes);
    let at_once = Arc::new(Mutex::new((0, 0)));
    let seen = Arc::clone(&at_once);
    let server = Server::start(move |request, out| {
        let (head, body) = answer(request, &served, "\"v1\"");
        let count = |by: i32| {
            let mut seen = seen.lock().unwrap();
            seen.0 += by;
            seen.1 = seen.1.max(seen.0);
        };
        count(1);
        let _ = out.write_all(head.as_bytes());
        for piece in body.chunks(1 << 20) {
            std::thread::sleep(Duration::from_millis(60));
            let _ = out.write_all(piece);
        }
        count(-1);
    });
    let folder = tempfile::tempdir().unwrap();
    let path = get_url(folder.path(), &server).unwrap();
    assert!(fs::read(path).unwrap() == **bytes);
    assert!(at_once.lock().unwrap().1 >= 2, "never more than one connection");
}

#[test]
fn a_killed_download_resumes_and_its_checksum_holds() {
    let bytes = content(24 << 20, 1);
    let sha = sha256(&bytes);
    let sent = Arc::new(AtomicUsize::new(0));
    let (served, counted) = (Arc::clone(&bytes), Arc::clone(&sent));
    let server = Server::start(move |request, out| {
        if request.path.starts_with("/api/") {
            let listing = serde_json::json!({ "siblings": [{ "rfilename": "m.gguf", "lfs": { "sha256": sha, "size": served.len() } }] });
            let listing = listing.to_string();
            let _ = write!(
                out,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{listing}",
                listing.len()
            );
            return;
        }
        let (head, body) = answer(request, &served, "\"v1\"");
        let _ = out.write_all(head.as_bytes());
        for piece in body.chunks(256 << 10) {
            // Slow until it has been killed.
            if counted.load(Ordering::Relaxed) < 16 << 20 {
                std::thread::sleep(Duration::from_millis(40));
            }
            if out.write_all(piece).is_err() {
                return;
            }
            counted.fetch_add(piece.len(), Ordering::Relaxed);
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_wayinfer"))
        .args(["pull", "o/r", "--folder", folder.path().to_str().unwrap()])
        .env("XDG_CONFIG_HOME", folder.path())
        .env("HF_ENDPOINT", &server.url)
        .env_remove("HF_TOKEN")
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let state = folder.path().join("o/r/m.gguf.part.json");
    let began = Instant::now();
    let kept = || fs::read_to_string(&state).is_ok_and(|state| state.contains("[[0,"));
    while !kept() || sent.load(Ordering::Relaxed) < 6 << 20 {
        assert!(began.elapsed() < Duration::from_secs(20), "it does not get going");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!folder.path().join("o/r/m.gguf").exists());
    let before = server.n_requests();
    sent.store(16 << 20, Ordering::Relaxed);
    let path = get(&options(folder.path(), &server), "o/r").unwrap();
    assert!(fs::read(path).unwrap() == **bytes);
    let requests = server.requests.lock().unwrap();
    let starts: Vec<_> =
        requests[before..].iter().filter_map(|r| r.range()).map(|r| r.0).filter(|&at| at > 0).collect();
    assert_eq!(starts.len(), 1, "it began anew: {starts:?}");
    assert!(starts[0] >= 1 << 20, "{starts:?}");
    assert_eq!(names(&folder.path().join("o/r")), WHOLE);
}

#[test]
fn two_processes_do_not_write_the_same_file() {
    let bytes = content(100_000, 1);
    let server = Server::start(move |request, out| serve(request, out, &bytes, "\"v1\""));
    let folder = tempfile::tempdir().unwrap();
    let part = fs::File::create(folder.path().join("m.gguf.part")).unwrap();
    part.lock().unwrap();
    assert!(matches!(get_url(folder.path(), &server), Err(PullError::Busy { .. })));
    drop(part);
    get_url(folder.path(), &server).unwrap();
}
