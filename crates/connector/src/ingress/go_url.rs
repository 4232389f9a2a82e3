//! URLs as Go's `net/url` reads them, with its words for what is wrong: a service's address is such a URL, and people
//! compare our errors with those that they know.

/// The parts of a URL that a service has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GoUrl {
    /// In lower case.
    pub(super) scheme: String,
    /// Host and port as they were written, without user and password.
    pub(super) authority: String,
    pub(super) path: String,
    /// With its question mark, and the fragment.
    behind: String,
}

/// `parse "URL": what is wrong`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parse {url:?}: {problem}")]
pub(crate) struct UrlError {
    url: String,
    problem: String,
}

impl GoUrl {
    /// Reads a URL.
    pub(super) fn parse(text: &str) -> Result<Self, UrlError> {
        Self::parts(text).map_err(|problem| UrlError { url: text.to_owned(), problem })
    }

    fn parts(text: &str) -> Result<Self, String> {
        if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return Err("net/url: invalid control character in URL".into());
        }
        let behind_at = text.find(['?', '#']).unwrap_or(text.len());
        let (text, behind) = text.split_at(behind_at);
        let (scheme, rest) = scheme(text)?;
        let empty = Self {
            scheme: scheme.to_ascii_lowercase(),
            authority: String::new(),
            path: String::new(),
            behind: behind.to_owned(),
        };
        if !rest.starts_with('/') {
            if !scheme.is_empty() {
                // Opaque, such as `localhost:8080`, whose scheme is `localhost`.
                return Ok(empty);
            }
            let segment = rest.split('/').next().unwrap_or_default();
            if segment.contains(':') {
                return Err("first path segment in URL cannot contain colon".into());
            }
            return Ok(Self { path: rest.to_owned(), ..empty });
        }
        let Some(rest) = rest.strip_prefix("//").filter(|_| !scheme.is_empty() || !rest.starts_with("///"))
        else {
            return Ok(Self { path: rest.to_owned(), ..empty });
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        check_host(host)?;
        Ok(Self { authority: host.to_owned(), path: path.to_owned(), ..empty })
    }

    /// The host without port and brackets.
    pub(super) fn host(&self) -> &str {
        let (host, _) = self.split();
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// The port, empty if there is none.
    pub(super) fn port(&self) -> &str {
        self.split().1
    }

    fn split(&self) -> (&str, &str) {
        match self.authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port),
            _ => (&self.authority, ""),
        }
    }
}

impl std::fmt::Display for GoUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}{}{}", self.scheme, self.authority, self.path, self.behind)
    }
}

fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if index > 0 => {}
            b':' if index == 0 => return Err("missing protocol scheme".into()),
            b':' => return Ok((&text[..index], &text[index + 1..])),
            _ => return Ok(("", text)),
        }
    }
    Ok(("", text))
}

fn check_host(authority: &str) -> Result<(), String> {
    let (host, port) = if authority.starts_with('[') {
        let end = authority.rfind(']').ok_or("missing ']' in host")?;
        authority.split_at(end + 1)
    } else {
        authority.rfind(':').map_or((authority, ""), |colon| authority.split_at(colon))
    };
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(digits) {
        return Err(format!("invalid port {port:?} after host"));
    }
    let allowed =
        |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"%".contains(c);
    match host.chars().find(|c| !allowed(*c)) {
        Some(c) => Err(format!("invalid character {:?} in host name", c.to_string())),
        None => Ok(()),
    }
}
