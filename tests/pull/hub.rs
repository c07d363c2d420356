//! Repositories of a hub, and files in parts.

use super::*;

/// A hub with one repository, whose files lie elsewhere on the same server.
fn hub(files: Vec<(&'static str, Arc<Vec<u8>>, String)>) -> Server {
    Server::start(move |request, out| {
        let (path, _) = request.path.split_once('?').unwrap_or((&request.path, ""));
        if path == "/api/models/o/r" {
            let siblings: Vec<_> = files
                .iter()
                .map(|(name, bytes, sha)| {
                    serde_json::json!({ "rfilename": name, "size": bytes.len(), "lfs": { "sha256": sha, "size": bytes.len() } })
                })
                .collect();
            let listing = serde_json::json!({ "sha": "abc123", "siblings": siblings }).to_string();
            let _ = write!(
                out,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{listing}",
                listing.len()
            );
        } else if let Some(name) = path.strip_prefix("/o/r/resolve/abc123/") {
            status(out, "302 Found", &format!("Location: /store/{name}\r\n"));
        } else {
            let name = path.strip_prefix("/store/").unwrap_or(path);
            match files.iter().find(|(file, ..)| *file == name) {
                Some((_, bytes, _)) => serve(request, out, bytes, "\"v1\""),
                None => status(out, "404 Not Found", ""),
            }
        }
    })
}

#[test]
fn a_repositorys_file_is_chosen_by_format_and_its_checksum_holds() {
    let file = |n, seed| {
        let bytes = content(n, seed);
        let sha = sha256(&bytes);
        (bytes, sha)
    };
    let mut files = Vec::new();
    for (seed, name) in (1..).zip([
        "README.md",
        "mmproj-F16.gguf",
        "x-Q4_K_M.gguf",
        "x-Q4_K_S.gguf",
        "x-Q8_0.gguf",
        "big/x-F16-00001-of-00002.gguf",
        "big/x-F16-00002-of-00002.gguf",
        "half/x-Q2_K-00001-of-00002.gguf",
        "y/x-Q8_0.gguf",
    ]) {
        let (bytes, sha) = file(100_000 + seed as usize, seed);
        files.push((name, bytes, sha));
    }
    let by_name = |files: &[(&'static str, Arc<Vec<u8>>, String)], name| {
        files.iter().find(|(file, ..)| *file == name).unwrap().1.clone()
    };
    let server = hub(files.clone());
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), &server);
    for (asked, found) in [
        ("o/r", "x-Q4_K_M.gguf"),
        ("o/r:q4_k_s", "x-Q4_K_S.gguf"),
        ("hf:o/r:x-Q4_K_M.gguf", "x-Q4_K_M.gguf"),
        ("o/r:F16", "big/x-F16-00001-of-00002.gguf"),
        ("o/r:x-F16-00002-of-00002.gguf", "big/x-F16-00001-of-00002.gguf"),
        ("o/r:y/x-Q8_0.gguf", "y/x-Q8_0.gguf"),
    ] {
        let path = get(&options, asked).unwrap();
        assert!(fs::read(&path).unwrap() == **by_name(&files, found), "{asked}");
        assert!(path.starts_with(folder.path().join("o/r")), "{}", path.display());
        assert!(Origin::of(&path).unwrap().sha256.is_some());
    }
    assert!(folder.path().join("o/r/x-F16-00002-of-00002.gguf").exists());
    assert!(matches!(get(&options, "o/r:Q8_0"), Err(PullError::Ambiguous { .. })));
    assert!(matches!(get(&options, "o/r:Q2_K"), Err(PullError::Protocol { .. })), "a part is missing");
    let error = get(&options, "o/r:Q3_K_M").unwrap_err().to_string();
    assert!(error.contains("Q3_K_M") && error.contains("x-Q4_K_M.gguf") && !error.contains("mmproj"), "{error}");
    assert!(matches!(get(&options, "o/none"), Err(PullError::Status { status: 404, .. })));

    // Bytes that are not those of the checksum have no name and do not stay.
    let (bytes, _) = file(50_000, 77);
    let server = hub(vec![("x.gguf", bytes, sha256(b"others"))]);
    let folder = tempfile::tempdir().unwrap();
    let options = self::options(folder.path(), &server);
    assert!(matches!(get(&options, "o/r"), Err(PullError::Checksum { .. })));
    assert!(names(&folder.path().join("o/r")).is_empty());
}

#[test]
fn hostile_listings_and_names_do_no_harm() {
    for name in ["../../evil.gguf", "/etc/x.gguf", "..\\evil.gguf", ".hidden.gguf", "a\u{1b}[2J.gguf"] {
        let bytes = content(10_000, 1);
        let sha = sha256(&bytes);
        let server = hub(vec![(Box::leak(name.to_owned().into_boxed_str()), bytes, sha)]);
        let folder = tempfile::tempdir().unwrap();
        let models = folder.path().join("models");
        let _ = get(&options(&models, &server), "o/r");
        assert!(names(folder.path()).iter().all(|n| n == "models"), "{name:?}");
    }
    for name in [
        "",
        "x",
        "/r",
        "o/",
        "o/../r",
        "a/b/c",
        "o/r:",
        "ftp://x/y.gguf",
        "o/r@../x",
        "o r/x",
        "http://",
        "https:///x.gguf",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(|_, out| status(out, "404 Not Found", ""));
        assert!(get(&options(folder.path(), &server), name).is_err(), "{name:?}");
        assert_eq!(server.n_requests(), 0, "{name:?}");
    }
    for listing in ["", "[]", "{", "{\"siblings\": 7}", "{\"siblings\": [{\"rfilename\": \"x.gguf\", \"size\": -1}]}"] {
        let server = Server::start(move |_, out| {
            let _ = write!(
                out,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{listing}",
                listing.len()
            );
        });
        let folder = tempfile::tempdir().unwrap();
        assert!(get(&options(folder.path(), &server), "o/r").is_err(), "{listing}");
    }
}

#[test]
fn the_parts_of_a_split_address_come_together() {
    let parts: Vec<_> = (1..=3).map(|seed| content(60_000, seed)).collect();
    let served = parts.clone();
    let server = Server::start(move |request, out| {
        let part = (1..=3).find(|part| request.path.contains(&format!("m-{part:05}-of-00003.gguf?k=v"))).unwrap();
        serve(request, out, &served[part - 1], "\"v1\"");
    });
    let folder = tempfile::tempdir().unwrap();
    let path = get(&options(folder.path(), &server), &format!("{}/d/m-00002-of-00003.gguf?k=v", server.url)).unwrap();
    assert!(path.ends_with("m-00001-of-00003.gguf"));
    for (part, bytes) in (1..).zip(&parts) {
        assert!(fs::read(folder.path().join(format!("m-{part:05}-of-00003.gguf"))).unwrap() == **bytes);
    }
}
