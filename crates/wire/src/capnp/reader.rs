//! Reading: frame, pointers, structs and lists, all within [`Limits`].

use std::cell::Cell;

use super::WORD;

/// What one message may cost its reader.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the whole message, segment table included.
    pub message_bytes: usize,
    /// Segments of one message.
    pub segments: usize,
    /// Pointers from the root to the deepest value that is read.
    pub depth: u32,
    /// Words that may be visited, so that pointers into the same place cost as often as they are followed.
    pub traversal_words: u64,
    /// Elements of one list, other than the bytes of a text.
    pub list_elements: usize,
}

/// Why bytes are no message, or a message not what its reader expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// More bytes than [`Limits::message_bytes`].
    #[error("the message is larger than allowed")]
    TooLarge,
    /// More segments than [`Limits::segments`].
    #[error("the message has more segments than allowed")]
    TooManySegments,
    /// A pointer, or what it points to, lies outside its segment.
    #[error("a pointer leads outside the message")]
    OutOfBounds,
    /// Deeper than [`Limits::depth`].
    #[error("the message is nested deeper than allowed")]
    TooDeep,
    /// More words visited than [`Limits::traversal_words`].
    #[error("the message makes its reader visit more than allowed")]
    TooMuchWork,
    /// A list longer than [`Limits::list_elements`].
    #[error("a list is longer than allowed")]
    ListTooLong,
    /// A pointer of another kind than the field's.
    #[error("a pointer is of the wrong kind")]
    WrongKind,
    /// A far pointer that leads to another one, or a landing pad that is none.
    #[error("a far pointer has no landing pad")]
    BadFarPointer,
    /// A text without its zero byte at the end.
    #[error("a text does not end in a zero byte")]
    UnterminatedText,
    /// A text that is not UTF-8.
    #[error("a text is not UTF-8")]
    NotUtf8,
    /// The root is a null pointer.
    #[error("the message is empty")]
    NoRoot,
}

/// A message found in a stream, and the bytes that it takes there.
#[derive(Debug)]
pub struct Frame<'a> {
    /// The message.
    pub message: Message<'a>,
    /// Its size in the stream, segment table included.
    pub consumed: usize,
}

/// One message: its segments, and what may still be visited of them.
#[derive(Debug)]
pub struct Message<'a> {
    segments: Vec<&'a [u8]>,
    depth: u32,
    budget: Cell<u64>,
    list_elements: usize,
}

impl<'a> Message<'a> {
    /// Finds the message at the start of `input`; `None` if it is not there whole.
    ///
    /// # Errors
    /// The segment table asks for more than `limits` allow. That is said as soon as the table is there.
    pub fn frame(input: &'a [u8], limits: &Limits) -> Result<Option<Frame<'a>>, ReadError> {
        let Some(last) = le32(input, 0) else { return Ok(None) };
        let count = usize::try_from(last)
            .ok()
            .and_then(|last| last.checked_add(1))
            .filter(|count| *count <= limits.segments)
            .ok_or(ReadError::TooManySegments)?;
        // The count, a size for each segment, and padding to a word.
        let table = (count / 2 + 1) * WORD;
        let mut total = table;
        if input.len() < 4 + 4 * count {
            return Ok(None);
        }
        for index in 0..count {
            let words = le32(input, 4 + 4 * index).and_then(|words| usize::try_from(words).ok());
            total = words
                .and_then(|words| words.checked_mul(WORD))
                .and_then(|bytes| total.checked_add(bytes))
                .filter(|total| *total <= limits.message_bytes)
                .ok_or(ReadError::TooLarge)?;
        }
        if input.len() < total {
            return Ok(None);
        }
        let mut segments = Vec::with_capacity(count);
        let mut rest = &input[table..total];
        for index in 0..count {
            let words = le32(input, 4 + 4 * index).and_then(|words| usize::try_from(words).ok()).unwrap_or(0);
            let (segment, behind) = rest.split_at_checked(words * WORD).ok_or(ReadError::OutOfBounds)?;
            segments.push(segment);
            rest = behind;
        }
        let message = Message {
            segments,
            depth: limits.depth,
            budget: Cell::new(limits.traversal_words),
            list_elements: limits.list_elements,
        };
        Ok(Some(Frame { message, consumed: total }))
    }

    /// The root struct.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn root(&self) -> Result<StructReader<'a, '_>, ReadError> {
        let target = self.resolve(0, 0, self.depth)?;
        if matches!(target, Target::Null) {
            return Err(ReadError::NoRoot);
        }
        self.as_struct(target, self.depth)
    }

    /// The bytes of the only segment, if there is one only: what can be copied into another message as it is.
    pub fn single_segment(&self) -> Option<&'a [u8]> {
        match self.segments.as_slice() {
            [only] => Some(only),
            _ => None,
        }
    }

    fn word(&self, segment: usize, at: usize) -> Result<u64, ReadError> {
        let bytes = at
            .checked_mul(WORD)
            .and_then(|start| self.segments.get(segment)?.get(start..)?.first_chunk::<WORD>())
            .ok_or(ReadError::OutOfBounds)?;
        Ok(u64::from_le_bytes(*bytes))
    }

    /// The bytes of `words` words from `at`, paid for.
    fn slice(&self, segment: usize, at: usize, words: usize) -> Result<&'a [u8], ReadError> {
        self.charge(words)?;
        let start = at.checked_mul(WORD).ok_or(ReadError::OutOfBounds)?;
        let length = words.checked_mul(WORD).ok_or(ReadError::OutOfBounds)?;
        let segment = self.segments.get(segment).ok_or(ReadError::OutOfBounds)?;
        segment.get(start..).and_then(|rest| rest.get(..length)).ok_or(ReadError::OutOfBounds)
    }

    /// Takes the cost of visiting `words` words, or of one empty value, from the budget.
    fn charge(&self, words: usize) -> Result<(), ReadError> {
        let cost = u64::try_from(words.max(1)).unwrap_or(u64::MAX);
        let left = self.budget.get().checked_sub(cost).ok_or(ReadError::TooMuchWork)?;
        self.budget.set(left);
        Ok(())
    }

    /// Follows the pointer in word `at` of `segment`.
    fn resolve(&self, segment: usize, at: usize, depth: u32) -> Result<Target, ReadError> {
        if depth == 0 {
            return Err(ReadError::TooDeep);
        }
        let pointer = self.word(segment, at)?;
        if pointer & 3 != FAR {
            return Self::near(segment, at, pointer);
        }
        let (pad_segment, pad) = far(pointer);
        let landing = self.word(pad_segment, pad)?;
        if pointer & DOUBLE_FAR == 0 {
            if landing & 3 == FAR {
                return Err(ReadError::BadFarPointer);
            }
            return Self::near(pad_segment, pad, landing);
        }
        if landing & 7 != FAR {
            return Err(ReadError::BadFarPointer);
        }
        let (content_segment, content) = far(landing);
        let tag = self.word(pad_segment, pad.checked_add(1).ok_or(ReadError::OutOfBounds)?)?;
        if tag & 3 == FAR {
            return Err(ReadError::BadFarPointer);
        }
        Target::new(content_segment, content, tag)
    }

    fn near(segment: usize, at: usize, pointer: u64) -> Result<Target, ReadError> {
        if pointer == 0 {
            return Ok(Target::Null);
        }
        // The offset is the signed number in bits 2 to 31 of the low half, in words from the end of the pointer.
        let offset = isize::try_from(low(pointer).cast_signed() >> 2).map_err(|_| ReadError::OutOfBounds)?;
        let start =
            at.checked_add(1).and_then(|next| next.checked_add_signed(offset)).ok_or(ReadError::OutOfBounds);
        match pointer & 3 {
            CAPABILITY => Target::new(segment, 0, pointer),
            _ => Target::new(segment, start?, pointer),
        }
    }

    fn as_struct(&self, target: Target, depth: u32) -> Result<StructReader<'a, '_>, ReadError> {
        match target {
            Target::Null => Ok(StructReader {
                message: self,
                segment: 0,
                data: &[],
                pointers_at: 0,
                pointers: 0,
                depth: depth.saturating_sub(1),
            }),
            Target::Struct { segment, at, data, pointers } => {
                self.struct_at(segment, at, data, pointers, depth)
            }
            Target::List { .. } | Target::Capability(_) => Err(ReadError::WrongKind),
        }
    }

    fn struct_at(
        &self,
        segment: usize,
        at: usize,
        data: usize,
        pointers: usize,
        depth: u32,
    ) -> Result<StructReader<'a, '_>, ReadError> {
        let depth = depth.checked_sub(1).ok_or(ReadError::TooDeep)?;
        let bytes = self.slice(segment, at, data + pointers)?;
        Ok(StructReader {
            message: self,
            segment,
            data: bytes.get(..data * WORD).unwrap_or_default(),
            pointers_at: at + data,
            pointers,
            depth,
        })
    }
}

/// What a pointer leads to. Sizes and places are in words and not checked yet.
#[derive(Debug, Clone, Copy)]
enum Target {
    Null,
    Struct { segment: usize, at: usize, data: usize, pointers: usize },
    List { segment: usize, at: usize, code: u64, count: usize },
    Capability(u32),
}

impl Target {
    fn new(segment: usize, at: usize, tag: u64) -> Result<Self, ReadError> {
        let high = usize::try_from(tag >> 32).map_err(|_| ReadError::OutOfBounds)?;
        match tag & 3 {
            STRUCT => Ok(Self::Struct { segment, at, data: high & 0xffff, pointers: high >> 16 }),
            LIST => Ok(Self::List { segment, at, code: (tag >> 32) & 7, count: high >> 3 }),
            CAPABILITY if low(tag) == 3 => {
                u32::try_from(high).map(Self::Capability).map_err(|_| ReadError::OutOfBounds)
            }
            _ => Err(ReadError::WrongKind),
        }
    }
}

/// A struct. A field behind its end has the field's default: that is how a schema grows.
#[derive(Debug, Clone, Copy)]
pub struct StructReader<'a, 'm> {
    message: &'m Message<'a>,
    segment: usize,
    data: &'a [u8],
    pointers_at: usize,
    pointers: usize,
    depth: u32,
}

impl<'a, 'm> StructReader<'a, 'm> {
    /// The bit `bit` of the data section.
    pub fn bool(&self, bit: usize) -> bool {
        self.data.get(bit / 8).is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
    }

    /// The byte at `offset` bytes.
    pub fn u8(&self, offset: usize) -> u8 {
        self.data.get(offset).copied().unwrap_or(0)
    }

    /// The 16 bits at `offset` bytes.
    pub fn u16(&self, offset: usize) -> u16 {
        self.array(offset).map_or(0, u16::from_le_bytes)
    }

    /// The 32 bits at `offset` bytes.
    pub fn u32(&self, offset: usize) -> u32 {
        self.array(offset).map_or(0, u32::from_le_bytes)
    }

    /// The 64 bits at `offset` bytes.
    pub fn u64(&self, offset: usize) -> u64 {
        self.array(offset).map_or(0, u64::from_le_bytes)
    }

    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.data.get(offset..).and_then(|rest| rest.first_chunk::<N>()).copied()
    }

    fn target(&self, index: usize) -> Result<Target, ReadError> {
        if index >= self.pointers {
            return Ok(Target::Null);
        }
        self.message.resolve(self.segment, self.pointers_at + index, self.depth)
    }

    /// Whether pointer `index` is null.
    ///
    /// # Errors
    /// The pointer cannot be followed.
    pub fn is_null(&self, index: usize) -> Result<bool, ReadError> {
        Ok(matches!(self.target(index)?, Target::Null))
    }

    /// The struct behind pointer `index`; a null pointer is a struct of defaults.
    ///
    /// # Errors
    /// It is something else, or cannot be read.
    pub fn structure(&self, index: usize) -> Result<StructReader<'a, 'm>, ReadError> {
        self.message.as_struct(self.target(index)?, self.depth)
    }

    /// The index into the table of capabilities behind pointer `index`, if it is not null.
    ///
    /// # Errors
    /// It is something else.
    pub fn capability(&self, index: usize) -> Result<Option<u32>, ReadError> {
        match self.target(index)? {
            Target::Null => Ok(None),
            Target::Capability(capability) => Ok(Some(capability)),
            Target::Struct { .. } | Target::List { .. } => Err(ReadError::WrongKind),
        }
    }

    /// The bytes behind pointer `index`; none if it is null.
    ///
    /// # Errors
    /// It is something else, or cannot be read.
    pub fn data(&self, index: usize) -> Result<&'a [u8], ReadError> {
        match self.target(index)? {
            Target::Null => Ok(&[]),
            Target::List { segment, at, code: BYTES, count } => {
                let bytes = self.message.slice(segment, at, count.div_ceil(WORD))?;
                bytes.get(..count).ok_or(ReadError::OutOfBounds)
            }
            Target::Struct { .. } | Target::List { .. } | Target::Capability(_) => Err(ReadError::WrongKind),
        }
    }

    /// The bytes of the text behind pointer `index`, without the zero at its end. Go puts bytes of any kind into texts.
    ///
    /// # Errors
    /// It is something else, or cannot be read.
    pub fn text_bytes(&self, index: usize) -> Result<&'a [u8], ReadError> {
        if matches!(self.target(index)?, Target::Null) {
            return Ok(&[]);
        }
        match self.data(index)? {
            [text @ .., 0] => Ok(text),
            _ => Err(ReadError::UnterminatedText),
        }
    }

    /// The text behind pointer `index`; empty if it is null.
    ///
    /// # Errors
    /// It is something else, cannot be read, or is not UTF-8.
    pub fn text(&self, index: usize) -> Result<&'a str, ReadError> {
        std::str::from_utf8(self.text_bytes(index)?).map_err(|_| ReadError::NotUtf8)
    }

    /// The list of structs behind pointer `index`.
    ///
    /// # Errors
    /// It is something else, or cannot be read.
    pub fn structs(&self, index: usize) -> Result<StructListReader<'a, 'm>, ReadError> {
        let mut list = StructListReader {
            message: self.message,
            segment: 0,
            at: 0,
            data: 0,
            pointers: 0,
            count: 0,
            depth: 0,
        };
        let (segment, at, words) = match self.target(index)? {
            // An empty list of any kind is an empty list.
            Target::Null | Target::List { code: 0..STRUCTS, count: 0, .. } => return Ok(list),
            Target::List { segment, at, code: STRUCTS, count } => (segment, at, count),
            Target::Struct { .. } | Target::List { .. } | Target::Capability(_) => {
                return Err(ReadError::WrongKind);
            }
        };
        let tag = self.message.word(segment, at)?;
        let size = usize::try_from(tag >> 32).map_err(|_| ReadError::OutOfBounds)?;
        let count = usize::try_from(low(tag) >> 2).map_err(|_| ReadError::OutOfBounds)?;
        if tag & 3 != STRUCT {
            return Err(ReadError::WrongKind);
        }
        if count > self.message.list_elements {
            return Err(ReadError::ListTooLong);
        }
        (list.segment, list.at, list.depth) = (segment, at + 1, self.depth);
        (list.data, list.pointers, list.count) = (size & 0xffff, size >> 16, count);
        if count.checked_mul(list.data + list.pointers).is_none_or(|needed| needed > words) {
            return Err(ReadError::OutOfBounds);
        }
        Ok(list)
    }

    /// The list of texts behind pointer `index`.
    ///
    /// # Errors
    /// It is something else, or cannot be read.
    pub fn texts(&self, index: usize) -> Result<TextListReader<'a, 'm>, ReadError> {
        let (segment, at, count) = match self.target(index)? {
            Target::Null | Target::List { count: 0, .. } => (0, 0, 0),
            Target::List { segment, at, code: POINTERS, count } => (segment, at, count),
            Target::Struct { .. } | Target::List { .. } | Target::Capability(_) => {
                return Err(ReadError::WrongKind);
            }
        };
        if count > self.message.list_elements {
            return Err(ReadError::ListTooLong);
        }
        self.message.slice(segment, at, count)?;
        // Seen as a struct of pointers only, a list of pointers reads like one.
        Ok(TextListReader {
            pointers: StructReader {
                message: self.message,
                segment,
                data: &[],
                pointers_at: at,
                pointers: count,
                depth: self.depth.checked_sub(1).ok_or(ReadError::TooDeep)?,
            },
        })
    }
}

/// A list of structs.
#[derive(Debug, Clone, Copy)]
pub struct StructListReader<'a, 'm> {
    message: &'m Message<'a>,
    segment: usize,
    at: usize,
    data: usize,
    pointers: usize,
    count: usize,
    depth: u32,
}

impl<'a, 'm> StructListReader<'a, 'm> {
    /// The number of structs.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The structs, each paid for when it is taken.
    pub fn iter(self) -> impl Iterator<Item = Result<StructReader<'a, 'm>, ReadError>> {
        (0..self.count).map(move |index| {
            let at = self.at + index * (self.data + self.pointers);
            self.message.struct_at(self.segment, at, self.data, self.pointers, self.depth)
        })
    }
}

/// A list of texts.
#[derive(Debug, Clone, Copy)]
pub struct TextListReader<'a, 'm> {
    pointers: StructReader<'a, 'm>,
}

impl<'a, 'm> TextListReader<'a, 'm> {
    /// The number of texts.
    pub fn len(&self) -> usize {
        self.pointers.pointers
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The texts.
    pub fn iter(self) -> impl Iterator<Item = Result<&'a str, ReadError>> + use<'a, 'm> {
        (0..self.len()).map(move |index| self.pointers.text(index))
    }
}

const STRUCT: u64 = 0;
const LIST: u64 = 1;
const FAR: u64 = 2;
const CAPABILITY: u64 = 3;
const DOUBLE_FAR: u64 = 4;

/// List element codes that are read.
const BYTES: u64 = 2;
const POINTERS: u64 = 6;
const STRUCTS: u64 = 7;

/// Segment and word to which a far pointer leads.
fn far(pointer: u64) -> (usize, usize) {
    let segment = usize::try_from(pointer >> 32).unwrap_or(usize::MAX);
    let at = usize::try_from((pointer >> 3) & 0x1fff_ffff).unwrap_or(usize::MAX);
    (segment, at)
}

/// The low half of a pointer.
fn low(pointer: u64) -> u32 {
    let [a, b, c, d, ..] = pointer.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn le32(input: &[u8], at: usize) -> Option<u32> {
    input.get(at..).and_then(|rest| rest.first_chunk::<4>()).map(|bytes| u32::from_le_bytes(*bytes))
}
