//! What keeps a model from being fetched.

use std::path::PathBuf;
use std::time::Duration;

use crate::disk::DiskError;

/// What keeps a model from being fetched: what, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(
        "`{name}` names no model: {problem}; write owner/repo, owner/repo:Q4_K_M, owner/repo:file.gguf or an address"
    )]
    Name { name: String, problem: &'static str },
    #[error("{url} cannot be fetched: {problem}")]
    Address { url: String, problem: String },
    #[error("{url}: {source}; what has come is kept, pull again to go on")]
    Network { url: String, source: ureq::Error },
    #[error("{url}: the connection broke: {source}; what has come is kept, pull again to go on")]
    Broken { url: String, source: std::io::Error },
    #[error("{url}: the server answers {status}; {hint}")]
    Status { url: String, status: u16, hint: &'static str, retry_after: Option<Duration> },
    #[error(
        "{url}: the server answers with {problem}; it or a proxy on the way is at fault, try a mirror (HF_ENDPOINT)"
    )]
    Protocol { url: String, problem: String },
    #[error("{repository} has no GGUF file{}; it has {}", wanted.as_ref().map_or(String::new(), |w| format!(" for `{w}`")), list(available))]
    NoFile { repository: String, wanted: Option<String>, available: Vec<String> },
    #[error("`{wanted}` could be several files of {repository}; name one of {}", list(candidates))]
    Ambiguous { repository: String, wanted: String, candidates: Vec<String> },
    #[error("{url} begins with \"{}\" where a GGUF file begins with \"GGUF\"; it is no model, or a page to log in at", found.escape_ascii())]
    NotGguf { url: String, found: Vec<u8> },
    #[error("{}: the bytes that came have the SHA-256 {found}, expected {expected}; they were thrown away, pull again", path.display())]
    Checksum { path: PathBuf, expected: String, found: String },
    #[error("{url} has {found} bytes, expected {expected}; the file was replaced, pull again")]
    Length { url: String, found: u64, expected: u64 },
    #[error("{url} changed while it was fetched, and again; pull again when it is complete")]
    Changing { url: String },
    #[error("{} is there and is another file; move it away or say --force", path.display())]
    Exists { path: PathBuf },
    #[error("{} is being fetched by another process; wait for it", path.display())]
    Busy { path: PathBuf },
}

impl PullError {
    /// Whether another attempt may do better.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            PullError::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504),
            PullError::Broken { .. } => true,
            PullError::Network { source, .. } => !matches!(
                source,
                ureq::Error::BadUri(_)
                    | ureq::Error::InvalidProxyUrl
                    | ureq::Error::Tls(_)
                    | ureq::Error::Rustls(_)
                    | ureq::Error::Pem(_)
                    | ureq::Error::TlsRequired
            ),
            _ => false,
        }
    }

    /// How long the server asks to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            PullError::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// A list for a message, cut where it gets long.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 40;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len() {
        0 => "none".to_owned(),
        n if n > SHOWN => format!("{shown} and {} more", n - SHOWN),
        _ => shown,
    }
}
