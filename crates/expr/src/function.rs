//! The functions (section 11): their names, what they take and give, and what they do to one value.

use std::net::IpAddr;

use crate::buffer::Buffer;
use crate::scheme::Type;
use crate::set::prefix_range;

/// A function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Lower,
    Upper,
    Len,
    StartsWith,
    EndsWith,
    Substring,
    Concat,
    RegexReplace,
    ToString,
    RemoveBytes,
    UrlDecode,
    Cidr,
    Cidr6,
}

/// What an argument after the first must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parameter {
    /// A string literal.
    Text,
    /// A literal that is a regular expression.
    Pattern,
    /// A number literal.
    Int,
    /// A number literal of at most so many bits.
    Bits(u8),
    /// A value of the first argument's type.
    Same,
}

impl Function {
    pub(crate) const ALL: [Self; 13] = [
        Self::Lower,
        Self::Upper,
        Self::Len,
        Self::StartsWith,
        Self::EndsWith,
        Self::Substring,
        Self::Concat,
        Self::RegexReplace,
        Self::ToString,
        Self::RemoveBytes,
        Self::UrlDecode,
        Self::Cidr,
        Self::Cidr6,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Lower => "lower",
            Self::Upper => "upper",
            Self::Len => "len",
            Self::StartsWith => "starts_with",
            Self::EndsWith => "ends_with",
            Self::Substring => "substring",
            Self::Concat => "concat",
            Self::RegexReplace => "regex_replace",
            Self::ToString => "to_string",
            Self::RemoveBytes => "remove_bytes",
            Self::UrlDecode => "url_decode",
            Self::Cidr => "cidr",
            Self::Cidr6 => "cidr6",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|function| function.as_str() == name)
    }

    /// How it is called, for an error.
    pub(crate) fn usage(self) -> &'static str {
        match self {
            Self::Lower => "lower(string)",
            Self::Upper => "upper(string)",
            Self::Len => "len(string or array)",
            Self::StartsWith => "starts_with(string, \"literal\")",
            Self::EndsWith => "ends_with(string, \"literal\")",
            Self::Substring => "substring(string, start) or substring(string, start, end)",
            Self::Concat => "concat(string, string, ...) or concat(array, array, ...)",
            Self::RegexReplace => "regex_replace(string, \"regex\", \"replacement\")",
            Self::ToString => "to_string(int, ip or bool)",
            Self::RemoveBytes => "remove_bytes(string, \"literal\")",
            Self::UrlDecode => "url_decode(string)",
            Self::Cidr => "cidr(ip, bits of IPv4, bits of IPv6)",
            Self::Cidr6 => "cidr6(ip, bits)",
        }
    }

    /// What follows the first argument, and how much of it may be left out.
    pub(crate) fn parameters(self) -> (&'static [Parameter], usize) {
        match self {
            Self::Lower | Self::Upper | Self::Len | Self::ToString | Self::UrlDecode => (&[], 0),
            Self::StartsWith | Self::EndsWith | Self::RemoveBytes => (&[Parameter::Text], 0),
            Self::Substring => (&[Parameter::Int, Parameter::Int], 1),
            Self::Concat => (&[Parameter::Same], 0),
            Self::RegexReplace => (&[Parameter::Pattern, Parameter::Text], 0),
            Self::Cidr => (&[Parameter::Bits(32), Parameter::Bits(128)], 0),
            Self::Cidr6 => (&[Parameter::Bits(128)], 0),
        }
    }

    /// Whether its last parameter may be given again and again.
    pub(crate) fn repeats(self) -> bool {
        self == Self::Concat
    }

    /// What it gives for a first argument of this type; none if it takes no such argument.
    pub(crate) fn result(self, first: Type) -> Option<Type> {
        match (self, first) {
            (
                Self::Lower
                | Self::Upper
                | Self::Substring
                | Self::RegexReplace
                | Self::RemoveBytes
                | Self::UrlDecode
                | Self::Concat,
                Type::Bytes,
            )
            | (Self::ToString, Type::Int | Type::Ip | Type::Bool) => Some(Type::Bytes),
            (Self::Len, Type::Bytes | Type::Array(_)) => Some(Type::Int),
            (Self::StartsWith | Self::EndsWith, Type::Bytes) => Some(Type::Bool),
            (Self::Cidr | Self::Cidr6, Type::Ip) => Some(Type::Ip),
            (Self::Concat, Type::Array(of)) => match of {
                Type::Bool | Type::Int | Type::Ip | Type::Bytes => Some(first),
                Type::Array(_) | Type::Map(_) => None,
            },
            _ => None,
        }
    }
}

/// The part of a text from one place to another, counted from its end where negative, cut to what there is.
pub(crate) fn substring(text: &[u8], start: i64, end: Option<i64>) -> &[u8] {
    let place = |place: i64| {
        let length = i64::try_from(text.len()).unwrap_or(i64::MAX);
        let place = if place < 0 { place.saturating_add(length) } else { place };
        usize::try_from(place.clamp(0, length)).unwrap_or(0)
    };
    let end = end.map_or(text.len(), place);
    text.get(place(start)..end).unwrap_or_default()
}

/// `%41` and `+` decoded; what is no escape stays.
pub(crate) fn url_decode(text: &[u8], out: &mut Buffer) {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let escape = (*byte == b'%').then(|| Some((digit(text.get(at + 1))?, digit(text.get(at + 2))?)));
        if let Some(Ok(decoded)) = escape.flatten().map(|(high, low)| u8::try_from(high * 16 + low)) {
            out.push(decoded);
            at += 3;
        } else {
            out.push(if *byte == b'+' { b' ' } else { *byte });
            at += 1;
        }
    }
}

/// The network of an address. An address of the other family stays as it is.
pub(crate) fn network(address: IpAddr, v4: Option<u8>, v6: u8) -> IpAddr {
    let length = match address {
        IpAddr::V4(_) => v4,
        IpAddr::V6(_) => Some(v6),
    };
    length.and_then(|length| prefix_range(address, length)).map_or(address, |(first, _)| first)
}

/// Writes a replacement for the groups of a match: `${1}` is the first.
pub(crate) fn expand<'t>(replacement: &[u8], group: impl Fn(usize) -> Option<&'t [u8]>, out: &mut Buffer) {
    let mut rest = replacement;
    while let Some((first, after)) = rest.split_first() {
        let number = rest.strip_prefix(b"${").and_then(|inside| {
            let digits = inside.iter().take(3).take_while(|byte| byte.is_ascii_digit()).count();
            let number = std::str::from_utf8(&inside[..digits]).ok()?.parse().ok()?;
            inside[digits..].strip_prefix(b"}").map(|after| (number, after))
        });
        if let Some((number, after)) = number {
            out.extend(group(number).unwrap_or_default());
            rest = after;
        } else {
            out.push(*first);
            rest = after;
        }
    }
}
