//! HTTP as downloads need it: an address and a range in, an answer whose status is known to be good out. Redirects are
//! followed here, so that a token goes to no other host than the endpoint's and what the hub says on the way is kept.

use std::io::Read;
use std::time::Duration;

use ureq::http::{HeaderMap, Uri};
use ureq::tls::{RootCerts, TlsConfig};

use super::{Patience, PullError, PullOptions};

const MAX_REDIRECTS: usize = 10;
/// Bytes of a listing.
const MAX_TEXT: u64 = 64 << 20;

/// Connections to servers, and what is sent to which.
#[derive(Debug)]
pub(super) struct Client {
    agent: ureq::Agent,
    endpoint: String,
    token: Option<String>,
    patience: Patience,
}

/// An answer with status 200 or 206.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    headers: HeaderMap,
    /// The checksum that the hub gives on the way to the file.
    pub(super) linked_sha256: Option<String>,
    /// The address that answered, after redirects.
    pub(super) url: String,
    pub(super) body: ureq::Body,
}

impl Client {
    pub(super) fn new(options: &PullOptions) -> Result<Client, PullError> {
        let endpoint = options.endpoint.trim_end_matches('/').to_owned();
        if parse(&endpoint).is_none() {
            let problem = "HF_ENDPOINT is no http or https address".to_owned();
            return Err(PullError::Address { url: endpoint, problem });
        }
        let patience = options.patience;
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(patience.stall))
            .timeout_recv_response(Some(2 * patience.stall))
            .timeout_per_read(Some(patience.stall))
            .timeout_per_write(Some(patience.stall))
            // Encoded bytes would be others than those that a range and a checksum count.
            .accept_encoding("identity")
            .user_agent(concat!("wayinfer/", env!("CARGO_PKG_VERSION")))
            .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
            .build()
            .new_agent();
        Ok(Client { agent, endpoint, token: options.token.clone(), patience })
    }

    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// A text, with as many attempts as faults are put up with.
    pub(super) fn get_text(&self, url: &str) -> Result<String, PullError> {
        self.persist(|| {
            let answer = self.get(url, None, None)?;
            let broken = |source| PullError::Broken { url: url.to_owned(), source };
            let mut text = Vec::new();
            let mut body = answer.body.into_reader().take(MAX_TEXT + 1);
            body.read_to_end(&mut text).map_err(broken)?;
            let problem = |problem: &str| PullError::Protocol { url: url.to_owned(), problem: problem.to_owned() };
            if text.len() as u64 > MAX_TEXT {
                return Err(problem("a listing of more than 64 MiB"));
            }
            String::from_utf8(text).map_err(|_| problem("what is no text"))
        })
    }

    /// Calls `attempt` until it succeeds, fails for good, or has failed too often.
    pub(super) fn persist<T>(&self, mut attempt: impl FnMut() -> Result<T, PullError>) -> Result<T, PullError> {
        let mut failures = 0;
        loop {
            match attempt() {
                Err(error) if error.is_passing() && failures + 1 < self.patience.attempts => {
                    failures += 1;
                    std::thread::sleep(self.wait(failures, &error));
                }
                outcome => return outcome,
            }
        }
    }

    /// How long to wait after `failures` in a row, the last of them `error`.
    pub(super) fn wait(&self, failures: u32, error: &PullError) -> Duration {
        let doubled = self.patience.first_wait.saturating_mul(1 << failures.saturating_sub(1).min(16));
        error.retry_after().unwrap_or(doubled).min(self.patience.longest_wait)
    }

    /// Asks for `url`, or for the bytes `range` (first, last) of it if they still are those of `validator`.
    pub(super) fn get(
        &self,
        url: &str,
        range: Option<(u64, u64)>,
        validator: Option<&str>,
    ) -> Result<Answer, PullError> {
        let mut url = url.to_owned();
        let mut linked_sha256 = None;
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.ask(&url, range, validator)?;
            let headers = answer.headers();
            let linked = header(headers, "x-linked-etag").map(|etag| etag.trim_matches('"').to_ascii_lowercase());
            linked_sha256 = linked_sha256.or(linked.filter(|etag| super::hub::is_sha256(etag)));
            let status = answer.status().as_u16();
            match status {
                200 | 206 => {
                    let (parts, body) = answer.into_parts();
                    return Ok(Answer { status, headers: parts.headers, linked_sha256, url, body });
                }
                301 | 302 | 303 | 307 | 308 => {
                    let target = header(headers, "location").and_then(|to| join(&url, to));
                    let refuse = |problem: &str| PullError::Protocol { url: url.clone(), problem: problem.to_owned() };
                    let target = target.ok_or_else(|| refuse("a redirect to nowhere"))?;
                    if is_https(&url) && !is_https(&target) {
                        return Err(refuse("a redirect from https to http"));
                    }
                    url = target;
                }
                _ => {
                    let retry_after = header(headers, "retry-after").and_then(|s| s.trim().parse().ok());
                    let retry_after = retry_after.map(Duration::from_secs);
                    return Err(PullError::Status { url, status, hint: self.hint(status), retry_after });
                }
            }
        }
        Err(PullError::Protocol { url, problem: format!("more than {MAX_REDIRECTS} redirects") })
    }

    fn ask(
        &self,
        url: &str,
        range: Option<(u64, u64)>,
        validator: Option<&str>,
    ) -> Result<ureq::http::Response<ureq::Body>, PullError> {
        let refuse =
            || PullError::Address { url: url.to_owned(), problem: "it is no http or https address".to_owned() };
        let uri = parse(url).ok_or_else(refuse)?;
        let mut request = self.agent.get(url);
        let hub = parse(&self.endpoint);
        let is_hub = hub.is_some_and(|hub| (hub.scheme(), hub.authority()) == (uri.scheme(), uri.authority()));
        if let Some(token) = self.token.as_ref().filter(|_| is_hub) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some((first, last)) = range {
            request = request.header("Range", format!("bytes={first}-{last}"));
            if let Some(validator) = validator {
                request = request.header("If-Range", validator);
            }
        }
        request.call().map_err(|source| PullError::Network { url: url.to_owned(), source })
    }

    fn hint(&self, status: u16) -> &'static str {
        match status {
            401 if self.token.is_some() => "the model is not there, or the token in HF_TOKEN may not see it",
            401 => "the model is not there, or it is closed: ask for access on its page and set HF_TOKEN",
            403 => "access is refused: accept the model's terms on its page, and set HF_TOKEN",
            404 | 410 => "there is no such file or repository; check the spelling",
            407 => "the proxy wants a password: HTTPS_PROXY=http://user:password@host:port",
            416 => "the file is shorter than it was",
            429 => "it has had too many requests; wait, or set HF_TOKEN",
            500..600 => "it has a fault of its own; try later, or a mirror (HF_ENDPOINT)",
            _ => "that is not an answer a download can do with; try a mirror (HF_ENDPOINT)",
        }
    }
}

impl Answer {
    /// First byte and length of the whole, of an answer to a range; `None` where the header is missing or makes no sense.
    pub(super) fn content_range(&self) -> Option<(u64, u64)> {
        let (range, total) = header(&self.headers, "content-range")?.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last, total): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
        (first <= last && last < total).then_some((first, total))
    }

    /// The length of an answer that is the whole file.
    pub(super) fn content_length(&self) -> Option<u64> {
        header(&self.headers, "content-length")?.trim().parse().ok()
    }

    /// What tells this version of the file from another.
    pub(super) fn version(&self) -> Option<&str> {
        header(&self.headers, "etag").or_else(|| header(&self.headers, "last-modified"))
    }
}

/// What `If-Range` takes: a strong tag, or a date.
pub(super) fn validator(version: &str) -> Option<&str> {
    (!version.starts_with("W/")).then_some(version)
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// An http or https address with a host.
fn parse(url: &str) -> Option<Uri> {
    let uri: Uri = url.parse().ok()?;
    let http = matches!(uri.scheme_str(), Some("http" | "https"));
    (http && uri.host().is_some_and(|host| !host.is_empty())).then_some(uri)
}

fn is_https(url: &str) -> bool {
    parse(url).is_some_and(|uri| uri.scheme_str() == Some("https"))
}

/// The address that `location` is, seen from `base`.
fn join(base: &str, location: &str) -> Option<String> {
    if parse(location).is_some() {
        return Some(location.to_owned());
    }
    if location.contains("://") {
        return None;
    }
    let uri = parse(base)?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    let joined = if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = uri.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    parse(&joined).map(|_| joined)
}
