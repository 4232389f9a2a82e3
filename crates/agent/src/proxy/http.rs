//! HTTP `CONNECT`, *RFC 9110 § 9.3.6*: the request's head, and the answers. Nothing else is served.

use adit_wire::device::{REFUSAL_HEADER, refusal_status};

use super::Failure;
use super::target::Target;

/// Longest head of a request, in bytes.
pub(super) const MAX_HEAD: usize = 16 << 10;
const END: &[u8] = b"\r\n\r\n";

/// Said before the bytes of the flow.
pub(super) const SUCCESS: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Why a request is none that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unserved {
    Malformed,
    TooLong,
    Method,
}

impl Unserved {
    pub(super) fn answer(self) -> String {
        match self {
            Self::Malformed => answer("400 Bad Request", "", "expected CONNECT HOST:PORT"),
            Self::TooLong => {
                answer("431 Request Header Fields Too Large", "", "the request's head is too long")
            }
            Self::Method => {
                answer("405 Method Not Allowed", "allow: CONNECT\r\n", "only CONNECT is served here")
            }
        }
    }
}

/// Reads a request, and tells its length; nothing if it is not whole yet.
pub(super) fn request(bytes: &[u8]) -> Result<Option<(Target, usize)>, Unserved> {
    let Some(end) = bytes.windows(END.len()).position(|window| window == END) else {
        return if bytes.len() < MAX_HEAD { Ok(None) } else { Err(Unserved::TooLong) };
    };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| Unserved::Malformed)?;
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let (Some(method), Some(authority), Some("HTTP/1.1" | "HTTP/1.0"), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Unserved::Malformed);
    };
    if method != "CONNECT" {
        return Err(Unserved::Method);
    }
    let target = Target::from_authority(authority).ok_or(Unserved::Malformed)?;
    Ok(Some((target, end + END.len())))
}

/// The answer to a request that failed: what the edge would have said to the agent.
pub(super) fn failure(failure: Failure) -> String {
    match failure {
        Failure::Unresolved => answer("502 Bad Gateway", "", "the device's resolver does not know the name"),
        Failure::NotConnected => {
            answer("503 Service Unavailable", "", "the device is not connected to its edge")
        }
        Failure::Refused(refusal) => {
            let status = match refusal_status(refusal) {
                403 => "403 Forbidden",
                413 => "413 Content Too Large",
                503 => "503 Service Unavailable",
                504 => "504 Gateway Timeout",
                _ => "502 Bad Gateway",
            };
            answer(status, &format!("{REFUSAL_HEADER}: {refusal}\r\n"), &format!("refused: {refusal}"))
        }
    }
}

fn answer(status: &str, headers: &str, text: &str) -> String {
    let length = text.len() + 1;
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}\n"
    )
}

#[cfg(test)]
mod tests {
    use adit_model::Refusal;

    use super::*;

    #[test]
    fn a_request_names_a_target_and_may_have_headers() {
        for (text, target) in [
            ("CONNECT 192.0.2.1:443 HTTP/1.1\r\nhost: 192.0.2.1:443\r\n\r\n", "192.0.2.1:443"),
            ("CONNECT [2001:db8::1]:443 HTTP/1.0\r\n\r\n", "[2001:db8::1]:443"),
        ] {
            let whole = [text.as_bytes(), b"\x16\x03"].concat();
            let target = Target::Address(target.parse().unwrap());
            assert_eq!(request(&whole), Ok(Some((target, text.len()))));
            for end in 0..text.len() {
                assert_eq!(request(&text.as_bytes()[..end]), Ok(None));
            }
        }
    }

    #[test]
    fn what_is_not_served_says_why() {
        for (text, expected) in [
            ("GET http://192.0.2.1/ HTTP/1.1\r\n\r\n", Unserved::Method),
            ("CONNECT 192.0.2.1 HTTP/1.1\r\n\r\n", Unserved::Malformed),
            ("CONNECT 192.0.2.1:443 HTTP/2.0\r\n\r\n", Unserved::Malformed),
            ("CONNECT  192.0.2.1:443 HTTP/1.1\r\n\r\n", Unserved::Malformed),
            ("hello\r\n\r\n", Unserved::Malformed),
            (&"a".repeat(MAX_HEAD), Unserved::TooLong),
        ] {
            assert_eq!(request(text.as_bytes()), Err(expected), "{text:?}");
        }
        assert!(
            Unserved::Method.answer().starts_with("HTTP/1.1 405 Method Not Allowed\r\nallow: CONNECT\r\n")
        );
    }

    #[test]
    fn a_refusal_is_named_in_a_header() {
        assert_eq!(
            failure(Failure::Refused(Refusal::Blocked)),
            "HTTP/1.1 403 Forbidden\r\nadit-refusal: blocked\r\ncontent-type: text/plain\r\n\
             content-length: 17\r\nconnection: close\r\n\r\nrefused: blocked\n"
        );
    }
}
