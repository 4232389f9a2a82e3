//! What is known of an HTTP request when rules are asked about it.

/// What is known of an HTTP request, in the spelling in which rules are asked (policy language, 4 and 7.3).
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestFacts<'a> {
    /// The host, in lower case and without port and trailing dot.
    pub host: Option<&'a str>,
    /// The method, in capital letters.
    pub method: &'a str,
    /// The absolute URL, without a trailing `/`.
    pub uri: &'a str,
    /// The path, as on the wire.
    pub path: &'a str,
    /// The path with its query.
    pub path_and_query: &'a str,
    /// The query, without its `?`.
    pub query: Option<&'a str>,
    /// The type of the request's body, without parameters.
    pub upload_mime: Option<&'a str>,
    /// The response's head, once it came.
    pub response: Option<ResponseFacts<'a>>,
}

/// What is known of a response.
#[derive(Debug, Clone, Copy)]
pub struct ResponseFacts<'a> {
    /// Its status.
    pub status: u16,
    /// The type of its body, without parameters.
    pub download_mime: Option<&'a str>,
}
