//! A cursor over the source. What a piece of text is depends on where it stands, so there is no stream of tokens: the
//! parser asks for what may stand here.

use crate::ast::{Literal, LiteralKind};
use crate::error::{ErrorCode, Problem, Span};

/// The most `#` that a raw string may open with (section 2).
const MAX_HASHES: usize = 255;
/// As many bytes of a name are shown in an error.
const MAX_SHOWN: usize = 40;

#[derive(Debug, Clone)]
pub(crate) struct Lexer<'s> {
    source: &'s str,
    at: usize,
}

impl<'s> Lexer<'s> {
    pub(crate) fn new(source: &'s str) -> Self {
        Self { source, at: 0 }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    pub(crate) fn span_from(&self, start: usize) -> Span {
        Span::new(start, self.at)
    }

    pub(crate) fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
    }

    /// Skips blanks and says whether nothing follows.
    pub(crate) fn at_end(&mut self) -> bool {
        self.skip_blanks();
        self.rest().is_empty()
    }

    pub(crate) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Takes these characters if they come next.
    pub(crate) fn take(&mut self, symbol: &str) -> bool {
        let found = self.rest().starts_with(symbol);
        if found {
            self.at += symbol.len();
        }
        found
    }

    /// Takes this word if it comes next and ends here.
    pub(crate) fn take_word(&mut self, word: &str) -> bool {
        let found = self.rest().strip_prefix(word).is_some_and(|after| !after.starts_with(is_name));
        if found {
            self.at += word.len();
        }
        found
    }

    /// A name of parts joined by dots, if one comes next.
    pub(crate) fn name(&mut self) -> Option<(&'s str, Span)> {
        let start = self.at;
        if !self.peek().is_some_and(|first| first.is_ascii_alphabetic() || first == '_') {
            return None;
        }
        let mut end = start;
        for (index, part) in self.rest().split('.').enumerate() {
            let length = part.find(|c| !is_part(c)).unwrap_or(part.len());
            let begins_well = part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            if !begins_well {
                break;
            }
            end += length + usize::from(index > 0);
            if length < part.len() {
                break;
            }
        }
        self.at = end;
        Some((&self.source[start..end], self.span_from(start)))
    }

    /// Whether what comes next begins a literal and can begin no field.
    pub(crate) fn begins_literal(&self) -> bool {
        let rest = self.rest().as_bytes();
        match rest.first() {
            Some(b'"' | b'-' | b'0'..=b'9') => true,
            Some(b'r') => matches!(rest.get(1), Some(b'"' | b'#')),
            _ => false,
        }
    }

    /// A literal, if one comes next.
    pub(crate) fn literal(&mut self) -> Result<Option<Literal<'s>>, Problem> {
        let start = self.at;
        let rest = self.rest();
        let kind = if rest.starts_with('"') {
            self.quoted()?
        } else if rest.starts_with("r\"") || rest.starts_with("r#") {
            self.raw()?
        } else {
            let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            if length == 0 {
                return Ok(None);
            }
            self.at += length;
            LiteralKind::Word(&rest[..length])
        };
        Ok(Some(Literal { kind, span: self.span_from(start) }))
    }

    fn quoted(&mut self) -> Result<LiteralKind<'s>, Problem> {
        let start = self.at;
        let inside = &self.rest()[1..];
        let mut bytes = inside.bytes().enumerate();
        while let Some((index, byte)) = bytes.next() {
            match byte {
                b'\\' => {
                    bytes.next();
                }
                b'"' => {
                    self.at = start + 1 + index + 1;
                    return Ok(LiteralKind::Quoted(&inside[..index]));
                }
                _ => {}
            }
        }
        let span = Span::new(start, self.source.len());
        Err(Problem::new(ErrorCode::MissingQuote, span, "this string has no closing quote"))
    }

    fn raw(&mut self) -> Result<LiteralKind<'s>, Problem> {
        let start = self.at;
        let after = &self.rest()[1..];
        let hashes = after.bytes().take_while(|byte| *byte == b'#').count();
        let whole = Span::new(start, self.source.len());
        let Ok(hashes) = u8::try_from(hashes) else {
            let text = format!("a raw string opens with at most {MAX_HASHES} #");
            return Err(Problem::new(ErrorCode::MissingQuote, whole, text));
        };
        let count = usize::from(hashes);
        let Some(inside) = after[count..].strip_prefix('"') else {
            let text = "a raw string opens with a quote after its #: r#\"...\"#";
            return Err(Problem::new(ErrorCode::MissingQuote, whole, text));
        };
        let closing = inside.match_indices('"').find(|(index, _)| {
            inside[index + 1..].bytes().take(count).filter(|byte| *byte == b'#').count() == count
        });
        let Some((length, _)) = closing else {
            let text = format!("this raw string has no closing \"{}", "#".repeat(count));
            return Err(Problem::new(ErrorCode::MissingQuote, whole, text));
        };
        self.at = start + 1 + count + 1 + length + 1 + count;
        Ok(LiteralKind::Raw { hashes, text: &inside[..length] })
    }

    /// What stands behind the `$` of a list: as much as anybody may have meant as its name.
    pub(crate) fn list_name(&mut self) -> &'s str {
        let rest = self.rest();
        let length = match rest.strip_prefix('[') {
            // `$[list:Name]`, as some write; refused with its own text.
            Some(inside) => inside.find(']').map_or(rest.len(), |at| at + 2),
            None => rest.find(|c: char| !(is_name(c) || c == '-')).unwrap_or(rest.len()),
        };
        self.at += length;
        &rest[..length]
    }

    /// What comes next, short enough to be shown in an error.
    pub(crate) fn found(&self) -> (&'s str, Span) {
        let rest = self.rest();
        let named = rest.bytes().take(MAX_SHOWN).take_while(|byte| is_name(char::from(*byte))).count();
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let length = named.max(first);
        (&rest[..length], Span::new(self.at, self.at + length))
    }
}

fn is_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_name(c: char) -> bool {
    is_part(c) || c == '.'
}

fn is_word(c: char) -> bool {
    is_name(c) || matches!(c, ':' | '/' | '-')
}
