//! A web server on the loopback interface that serves as a test says, faults included.
#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses its own part, and a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What was asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// How many were before it.
    pub number: usize,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// First and last byte of the range asked for.
    pub fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().unwrap(), last.parse().unwrap_or(usize::MAX)))
    }
}

/// A running server; it ends with the value.
pub struct Server {
    pub url: String,
    pub requests: Arc<Mutex<Vec<Request>>>,
    ended: Arc<AtomicBool>,
}

impl Server {
    /// `answer` writes what it likes to the connection, which is closed behind it.
    pub fn start(answer: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (ended, count, answer) = (Arc::new(AtomicBool::new(false)), AtomicUsize::new(0), Arc::new(answer));
        let (log, over, count) = (Arc::clone(&requests), Arc::clone(&ended), Arc::new(count));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let (log, answer, count) = (Arc::clone(&log), Arc::clone(&answer), Arc::clone(&count));
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let Some((path, headers)) = read(&stream) else { return };
                    let number = count.fetch_add(1, Ordering::Relaxed);
                    let request = Request { number, path, headers };
                    log.lock().unwrap().push(request.clone());
                    answer(&request, &mut stream);
                });
            }
        });
        Server { url, requests, ended }
    }

    pub fn n_requests(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the listener, so that it sees the end.
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
    }
}

fn read(stream: &TcpStream) -> Option<(String, Vec<(String, String)>)> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let headers = lines.map_while(Result::ok).take_while(|line| !line.is_empty());
    let headers = headers.filter_map(|line| line.split_once(": ").map(|(k, v)| (k.to_owned(), v.to_owned()))).collect();
    Some((path, headers))
}

/// Writes an answer without a body.
pub fn status(out: &mut TcpStream, status: &str, headers: &str) {
    let _ = write!(out, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n{headers}\r\n");
}

/// Writes the bytes as a web server does: all, or the range that is asked for if its condition holds.
pub fn serve(request: &Request, out: &mut TcpStream, bytes: &[u8], etag: &str) {
    let (head, body) = answer(request, bytes, etag);
    let _ = out.write_all(head.as_bytes()).and_then(|()| out.write_all(body));
}

/// Head and body of [`serve`].
pub fn answer<'b>(request: &Request, bytes: &'b [u8], etag: &str) -> (String, &'b [u8]) {
    let valid = request.header("if-range").is_none_or(|tag| tag == etag);
    let common = format!("ETag: {etag}\r\nConnection: close\r\n\r\n");
    match request.range().filter(|_| valid) {
        Some((first, _)) if first >= bytes.len() => (
            format!(
                "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{}\r\nContent-Length: 0\r\n{common}",
                bytes.len()
            ),
            &[],
        ),
        Some((first, last)) => {
            let last = last.min(bytes.len() - 1);
            let body = &bytes[first..=last];
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{last}/{}\r\nContent-Length: {}\r\n{common}",
                bytes.len(),
                body.len()
            );
            (head, body)
        }
        None => (format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{common}", bytes.len()), bytes),
    }
}
