//! Wildcards: `*` stands for any run of bytes, also for none, `\*` and `\\` for themselves.

/// The most stars of one wildcard (section 11): with them, matching is linear for each star.
pub(crate) const MAX_STARS: usize = 8;

/// A wildcard, as the pieces between its stars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wildcard {
    pieces: Box<[Box<[u8]>]>,
    strict: bool,
}

impl Wildcard {
    /// Reads a wildcard; an error says what is wrong with it.
    pub(crate) fn new(text: &[u8], strict: bool) -> Result<Self, String> {
        let mut pieces = vec![Vec::new()];
        let mut bytes = text.iter();
        while let Some(byte) = bytes.next() {
            let literal = match byte {
                b'\\' => match bytes.next() {
                    Some(escaped @ (b'\\' | b'*')) => *escaped,
                    Some(_) | None => {
                        return Err(
                            "a backslash of a wildcard stands before * or another backslash".to_owned()
                        );
                    }
                },
                b'*' => {
                    if pieces.len() > 1 && pieces.last().is_some_and(Vec::is_empty) {
                        return Err("a wildcard has no **: one * is any run already".to_owned());
                    }
                    pieces.push(Vec::new());
                    continue;
                }
                other => *other,
            };
            if let Some(piece) = pieces.last_mut() {
                piece.push(if strict { literal } else { literal.to_ascii_lowercase() });
            }
        }
        if pieces.len() > MAX_STARS + 1 {
            return Err(format!("a wildcard has at most {MAX_STARS} stars"));
        }
        Ok(Self { pieces: pieces.into_iter().map(Vec::into_boxed_slice).collect(), strict })
    }

    /// Whether the whole text matches.
    pub(crate) fn matches(&self, text: &[u8]) -> bool {
        let Some((first, rest)) = self.pieces.split_first() else { return text.is_empty() };
        let Some((last, middle)) = rest.split_last() else { return self.same(first, text) };
        if text.len() < first.len() + last.len() {
            return false;
        }
        let (head, rest) = text.split_at(first.len());
        let (mut inner, tail) = rest.split_at(rest.len() - last.len());
        if !(self.same(first, head) && self.same(last, tail)) {
            return false;
        }
        // Each piece where it first occurs leaves the most room for the others.
        for piece in middle {
            let Some(at) = self.find(piece, inner) else { return false };
            inner = &inner[at + piece.len()..];
        }
        true
    }

    fn find(&self, piece: &[u8], text: &[u8]) -> Option<usize> {
        if self.strict {
            return memchr::memmem::find(text, piece);
        }
        text.windows(piece.len().max(1)).position(|window| window.eq_ignore_ascii_case(piece))
    }

    fn same(&self, piece: &[u8], text: &[u8]) -> bool {
        if self.strict { *piece == *text } else { piece.eq_ignore_ascii_case(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, text: &str, expected: bool) {
        let wildcard = Wildcard::new(pattern.as_bytes(), false).unwrap();
        assert_eq!(wildcard.matches(text.as_bytes()), expected, "{pattern} on {text}");
    }

    #[test]
    fn the_whole_text_must_match() {
        check("*.example.com", "a.EXAMPLE.com", true);
        check("*.example.com", "example.com", false);
        check("a*a", "a", false);
        check("a*a", "aa", true);
        check("*", "", true);
        check("", "", true);
        check("", "a", false);
        check("a*b*c", "aXbXbXc", true);
        check("a*b*c", "aXcXb", false);
        check("a?c", "abc", false);
        check(r"a\*c", "abc", false);
        check(r"a\*c", "a*c", true);
        check(r"a\\*", r"a\bc", true);
    }

    #[test]
    fn strict_wildcards_know_case() {
        let wildcard = Wildcard::new(b"a*B*c", true).unwrap();
        assert!(wildcard.matches(b"axBxc") && !wildcard.matches(b"axbxc"));
    }

    #[test]
    fn what_is_no_wildcard_is_refused() {
        for pattern in ["a**", "**", r"a\b", r"a\", "*a*a*a*a*a*a*a*a*"] {
            assert!(Wildcard::new(pattern.as_bytes(), false).is_err(), "{pattern}");
        }
    }
}
