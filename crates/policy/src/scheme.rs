//! The fields that expressions may name: which there are in each filter, of which types, and when they are known.
//!
//! One table holds them all (the contract's section 7), with a column for each filter; a scheme is the rows of a column.
//! A field has one [`Slot`] everywhere, so that facts are made once and asked by rules of every filter. What a rule does
//! limits when it may be decided, and so which fields it may name: an `off` rule decides before anything is decrypted.
//! Nothing here knows values.

use std::sync::LazyLock;

use adit_expr::{Field, ListKind, Meaning, Phase, Scheme, Slot, Type};

pub use adit_model::Filter;

/// When the facts of a DNS query are known.
pub mod dns_phase {
    /// The query was read.
    pub const QUERY: u8 = 0;
    /// It is being resolved.
    pub const RESOLVING: u8 = 1;
    /// The answer is complete.
    pub const ANSWER: u8 = 2;
}

/// When the facts of a flow are known.
pub mod flow_phase {
    /// Its first packet came.
    pub const OPENING: u8 = 0;
    /// The client's first bytes came.
    pub const FIRST_BYTES: u8 = 1;
}

/// When the facts of an HTTP request are known.
pub mod http_phase {
    /// The ClientHello came; nothing is decrypted.
    pub const HELLO: u8 = 0;
    /// The request's headers came.
    pub const REQUEST: u8 = 1;
    /// The request's body came.
    pub const REQUEST_BODY: u8 = 2;
    /// The response's headers came.
    pub const RESPONSE: u8 = 3;
    /// The response's body came.
    pub const RESPONSE_BODY: u8 = 4;
}

fn title(filter: Filter) -> &'static str {
    match filter {
        Filter::Dns => "the dns filter",
        Filter::DnsResolver => "the dns_resolver filter",
        Filter::L4 => "the l4 filter",
        Filter::Egress => "the egress filter",
        Filter::Http => "the http filter",
    }
}

/// Which of a rule's three expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// What is filtered. It may also name what the other two do (section 1).
    Traffic,
    /// Whose it is.
    Identity,
    /// From what device.
    DevicePosture,
}

impl Part {
    /// The part's key in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Traffic => "traffic",
            Self::Identity => "identity",
            Self::DevicePosture => "device_posture",
        }
    }
}

/// The scheme of one expression of a rule with this action; none where there can be no such expression. Whether the
/// action goes with the filter is not asked.
pub fn rule(filter: Filter, part: Part, action: &str) -> Option<&'static Scheme> {
    match part {
        Part::Identity => Some(&SCHEMES.identity),
        Part::DevicePosture => (filter != Filter::DnsResolver).then_some(&SCHEMES.posture),
        Part::Traffic => Some(match (filter, action) {
            (Filter::Dns, "override" | "safesearch" | "ytrestricted") => &SCHEMES.dns_query,
            (Filter::Dns, _) => &SCHEMES.dns,
            (Filter::DnsResolver, _) => &SCHEMES.dns_resolver,
            (Filter::L4, _) => &SCHEMES.l4,
            (Filter::Egress, _) => &SCHEMES.egress,
            (Filter::Http, "off" | "on") => &SCHEMES.http_off,
            (Filter::Http, "isolate" | "noisolate") => &SCHEMES.http_request,
            (Filter::Http, "redirect" | "noscan" | "quarantine") => &SCHEMES.http_upload,
            (Filter::Http, _) => &SCHEMES.http,
        }),
    }
}

/// The scheme of a device profile's `match`.
pub fn device_profile() -> &'static Scheme {
    &SCHEMES.device_profile
}

/// All fields, and `flags`, which is in no filter: the scheme of the contract's vectors.
pub fn every_field() -> &'static Scheme {
    &SCHEMES.every
}

/// The scheme of a vector: that of a filter's traffic expression, of `identity`, `device_posture` or `device_profile`, or
/// of all fields.
pub fn of_vector(filter: Option<&str>, action: Option<&str>) -> Option<&'static Scheme> {
    match filter {
        None => Some(every_field()),
        Some("identity") => Some(&SCHEMES.identity),
        Some("device_posture") => Some(&SCHEMES.posture),
        Some("device_profile") => Some(device_profile()),
        Some(name) => rule(Filter::from_name(name)?, Part::Traffic, action.unwrap_or_default()),
    }
}

/// How many slots facts have.
pub const SLOTS: usize = TABLE.len();

/// The slot of a field, for those who make facts; in a constant, a name that is none does not compile.
pub const fn slot(name: &str) -> Option<Slot> {
    let mut at = 0;
    while at < TABLE.len() {
        if equal(TABLE[at].name.as_bytes(), name.as_bytes()) {
            #[expect(clippy::cast_possible_truncation, reason = "the table has some hundred rows")]
            return Some(at as Slot);
        }
        at += 1;
    }
    None
}

/// The field of this name, also by another spelling of it.
pub(crate) fn field(name: &str) -> Option<(Slot, &'static str)> {
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, field)| field);
    (0..).zip(&TABLE).find(|(_, row)| row.name == name).map(|(slot, row)| (slot, row.name))
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

/// A row of the table: a field, and when it is known in each filter that has it.
#[derive(Debug, Clone, Copy)]
struct Row {
    name: &'static str,
    kind: Type,
    meaning: Meaning,
    caution: Option<&'static str>,
    dns: Option<Phase>,
    resolver: Option<Phase>,
    l4: Option<Phase>,
    egress: Option<Phase>,
    http: Option<Phase>,
    /// In an `off` rule, where names come from the ClientHello.
    off: Option<Phase>,
    home: Home,
}

/// Where else than in traffic expressions a field is at home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    Traffic,
    Identity,
    /// Also in device profiles.
    IdentityAndProfile,
    Posture,
    Profile,
    Vectors,
}

const fn row(name: &'static str, kind: Type) -> Row {
    Row {
        name,
        kind,
        meaning: Meaning::Plain,
        caution: None,
        dns: None,
        resolver: None,
        l4: None,
        egress: None,
        http: None,
        off: None,
        home: Home::Traffic,
    }
}

impl Row {
    const fn means(mut self, meaning: Meaning) -> Self {
        self.meaning = meaning;
        self
    }

    const fn caution(mut self, caution: &'static str) -> Self {
        self.caution = Some(caution);
        self
    }

    /// In the DNS filter from this phase on.
    const fn dns(mut self, phase: Phase) -> Self {
        self.dns = Some(phase);
        self
    }

    /// In the resolver filter, which decides at the query.
    const fn resolver(mut self) -> Self {
        self.resolver = Some(dns_phase::QUERY);
        self
    }

    const fn l4(mut self, phase: Phase) -> Self {
        self.l4 = Some(phase);
        self
    }

    /// In the egress filter, which decides at the first packet.
    const fn egress(mut self) -> Self {
        self.egress = Some(flow_phase::OPENING);
        self
    }

    /// In the HTTP filter from this phase on, also for an `off` rule, which may not name what comes later.
    const fn http(mut self, phase: Phase) -> Self {
        self.http = Some(phase);
        self.off = Some(phase);
        self
    }

    /// In the HTTP filter from the request on, and for an `off` rule by what the ClientHello says.
    const fn http_by_name(mut self) -> Self {
        self.http = Some(http_phase::REQUEST);
        self.off = Some(http_phase::HELLO);
        self
    }

    /// In every filter from the beginning.
    const fn everywhere(self) -> Self {
        self.dns(dns_phase::QUERY).resolver().l4(flow_phase::OPENING).egress().http(http_phase::HELLO)
    }

    const fn home(mut self, home: Home) -> Self {
        self.home = home;
        self
    }

    fn phase(&self, filter: Filter) -> Option<Phase> {
        match filter {
            Filter::Dns => self.dns,
            Filter::DnsResolver => self.resolver,
            Filter::L4 => self.l4,
            Filter::Egress => self.egress,
            Filter::Http => self.http,
        }
    }

    /// Where this field is at home, for those who name it elsewhere.
    fn at_home(&self) -> &'static str {
        match self.home {
            Home::Identity | Home::IdentityAndProfile => "the identity expression",
            Home::Posture => "the device_posture expression",
            Home::Profile => "device profiles",
            Home::Vectors => "vectors",
            Home::Traffic => {
                let filter = Filter::ALL.into_iter().find(|filter| self.phase(*filter).is_some());
                filter.map_or("no filter", title)
            }
        }
    }
}

const TEXTS: Type = Type::Array(&Type::Bytes);
const IPS: Type = Type::Array(&Type::Ip);
const INTS: Type = Type::Array(&Type::Int);
const MAP: Type = Type::Map(&TEXTS);

const CATEGORY: Meaning = Meaning::Listed(ListKind::Category);
const CONTINENT: Meaning = Meaning::Coded(&[
    ("africa", "AF"),
    ("antarctica", "AN"),
    ("asia", "AS"),
    ("europe", "EU"),
    ("north america", "NA"),
    ("oceania", "OC"),
    ("south america", "SA"),
    ("tor", "T1"),
]);

const D0: Phase = dns_phase::QUERY;
const D1: Phase = dns_phase::RESOLVING;
const D2: Phase = dns_phase::ANSWER;
const N0: Phase = flow_phase::OPENING;
const N1: Phase = flow_phase::FIRST_BYTES;
const H0: Phase = http_phase::HELLO;
const H1: Phase = http_phase::REQUEST;
const H2: Phase = http_phase::REQUEST_BODY;
const H3: Phase = http_phase::RESPONSE;
const H4: Phase = http_phase::RESPONSE_BODY;

/// The fields. What is known at two phases (`H2/H4`) stands with the first: its rules are asked at both.
const TABLE: [Row; 99] = [
    // 7.1: DNS.
    row("dns.fqdn", Type::Bytes).means(Meaning::Host).dns(D0).resolver(),
    row("dns.domains", TEXTS).means(Meaning::Host).dns(D0).resolver(),
    row("dns.content_category", INTS).means(CATEGORY).dns(D0).resolver(),
    row("dns.security_category", INTS).means(CATEGORY).dns(D0).resolver(),
    row("dns.indicator_feed", INTS).dns(D0),
    row("dns.categories_in_request_context_matches", Type::Bool).dns(D0),
    row("app.ids", INTS).dns(D0).l4(N1).egress().http_by_name(),
    row("app.type.ids", INTS).dns(D0).l4(N1).egress().http_by_name(),
    row("dns.query_rtype", Type::Bytes).dns(D0).resolver(),
    row("dns.location", Type::Bytes).means(Meaning::Listed(ListKind::Location)).dns(D0).resolver(),
    row("dns.doh_subdomain", Type::Bytes).dns(D0).resolver(),
    row("dns.resolved_ip", IPS).caution(RESOLVED_IP).dns(D0).resolver(),
    row("dns.src_ip", Type::Ip).dns(D0).resolver(),
    row("dns.src_internal_ip", Type::Ip).dns(D0).resolver(),
    row("dns.src.geo.country", Type::Bytes).dns(D0).resolver(),
    row("dns.src.geo.continent", Type::Bytes).means(CONTINENT).dns(D0).resolver(),
    row("dns.authoritative_ns_ips", IPS).dns(D1),
    row("dns.response.cname", TEXTS).means(Meaning::Host).dns(D2),
    row("dns.response.mx", TEXTS).dns(D2),
    row("dns.response.ptr", TEXTS).means(Meaning::Host).dns(D2),
    row("dns.response.txt", TEXTS).dns(D2),
    row("dns.resolved_ips", IPS).dns(D2),
    row("dns.dst.geo.country", TEXTS).dns(D2),
    row("dns.dst.geo.continent", TEXTS).means(CONTINENT).dns(D2),
    // 7.2: flows.
    row("net.dst.ip", Type::Ip).l4(N0).egress(),
    row("net.dst.port", Type::Int).l4(N0).egress(),
    row("net.src.port", Type::Int).l4(N0).egress(),
    row("net.src.ip", Type::Ip).l4(N0).egress(),
    row("net.src.internal_src_ip", Type::Ip).l4(N0).egress(),
    row("net.protocol", Type::Bytes).l4(N0).egress(),
    row("net.dst.geo.country", Type::Bytes).l4(N0).egress(),
    row("net.dst.geo.continent", Type::Bytes).means(CONTINENT).l4(N0).egress(),
    row("net.src.geo.country", Type::Bytes).l4(N0).egress(),
    row("net.src.geo.continent", Type::Bytes).means(CONTINENT).l4(N0).egress(),
    row("net.vnet_id", Type::Bytes).l4(N0).egress(),
    row("net.onramp.type", Type::Bytes).l4(N0).http(H0),
    row("net.is_isolated", Type::Bool).l4(N0).http(H0),
    row("proxy.endpoint", Type::Bytes).means(Meaning::Host).l4(N0).egress().http(H0),
    row("net.sni.host", Type::Bytes).means(Meaning::Host).l4(N1),
    row("net.sni.domains", TEXTS).means(Meaning::Host).l4(N1),
    row("net.fqdn.content_category", INTS).means(CATEGORY).l4(N1).egress(),
    row("net.fqdn.security_category", INTS).means(CATEGORY).l4(N1).egress(),
    row("net.fqdn.host", Type::Bytes).means(Meaning::Host).egress(),
    row("net.fqdn.domains", TEXTS).means(Meaning::Host).egress(),
    row("net.protocol.detection", Type::Bytes).l4(N1),
    row("access.target", Type::Bool).l4(N0).http(H0),
    row("access.private_app", Type::Bool).l4(N0).http(H0),
    // 7.3: HTTP.
    row("http.conn.dst_ip", IPS).http(H0),
    row("http.conn.src_ip", IPS).http(H0),
    row("http.conn.internal_src_ip", Type::Ip).http(H0),
    row("http.conn.vnet_id", Type::Bytes).http(H0),
    row("http.dst_ip.geo.country", Type::Bytes).http(H0),
    row("http.dst_ip.geo.continent", Type::Bytes).means(CONTINENT).http(H0),
    row("http.src_ip.geo.country", Type::Bytes).http(H0),
    row("http.src_ip.geo.continent", Type::Bytes).means(CONTINENT).http(H0),
    row("http.conn.hostname", Type::Bytes).means(Meaning::Host).http_by_name(),
    row("http.conn.domains", TEXTS).means(Meaning::Host).http_by_name(),
    row("http.conn.content_category", INTS).means(CATEGORY).http_by_name(),
    row("http.conn.security_category", INTS).means(CATEGORY).http_by_name(),
    row("app.hosts_ids", INTS).http_by_name(),
    row("app.supports_ids", INTS).http_by_name(),
    row("http.request.host", Type::Bytes).means(Meaning::Host).http_by_name(),
    row("http.request.domains", TEXTS).means(Meaning::Host).http_by_name(),
    row("http.request.method", Type::Bytes).http(H1),
    row("http.request.uri", Type::Bytes).means(Meaning::Listed(ListKind::Url)).http(H1),
    row("http.request.uri.path", Type::Bytes).http(H1),
    row("http.request.uri.path_and_query", Type::Bytes).http(H1),
    row("http.request.uri.query", Type::Bytes).http(H1),
    row("http.request.uri.content_category", INTS).means(CATEGORY).http(H1),
    row("http.request.uri.security_category", INTS).means(CATEGORY).http(H1),
    row("experimental.is_mcp", Type::Bool).http(H1),
    row("pkg.ecosystem", Type::Bytes).http(H1),
    row("pkg.name", Type::Bytes).http(H1),
    row("pkg.namespace", Type::Bytes).http(H1),
    row("pkg.version", Type::Bytes).http(H1),
    row("pkg.purl", Type::Bytes).http(H1),
    row("http.upload.mime", Type::Bytes).http(H2),
    row("http.upload.file.types", TEXTS).http(H2),
    row("http.upload.file.size", Type::Int).http(H2),
    row("http.response.status_code", Type::Int).http(H3),
    row("http.download.mime", Type::Bytes).http(H3),
    row("http.download.file.types", TEXTS).http(H4),
    row("http.download.file.size", Type::Int).http(H4),
    row("http.body_phase", Type::Bytes).http(H2),
    row("dlp.profiles", TEXTS).http(H2),
    // 7.4: who and what with.
    row("identity.email", Type::Bytes).means(Meaning::Email).everywhere().home(Home::IdentityAndProfile),
    row("identity.name", Type::Bytes).everywhere().home(Home::Identity),
    row("identity.groups.id", TEXTS).everywhere().home(Home::IdentityAndProfile),
    row("identity.groups.name", TEXTS).everywhere().home(Home::IdentityAndProfile),
    row("identity.groups.email", TEXTS).means(Meaning::Email).everywhere().home(Home::IdentityAndProfile),
    row("identity.saml_attributes", MAP).means(Meaning::Pairs).everywhere().home(Home::IdentityAndProfile),
    row("identity.oidc_claims", MAP).means(Meaning::Pairs).everywhere().home(Home::Identity),
    row("identity.service_token_uuid", Type::Bytes).home(Home::Profile),
    row("device_posture.checks.passed", TEXTS).dns(D0).l4(N0).egress().http(H0).home(Home::Posture),
    row("device_posture.checks.failed", TEXTS).dns(D0).l4(N0).egress().http(H0).home(Home::Posture),
    // Section 1: device profiles; and what only vectors have.
    row("network", Type::Bytes).home(Home::Profile),
    row("os.name", Type::Bytes).home(Home::Profile),
    row("os.version", Type::Bytes).home(Home::Profile),
    row("flags", Type::Array(&Type::Bool)).home(Home::Vectors),
];

const RESOLVED_IP: &str = "dns.resolved_ip is the address of the resolver that was asked; the addresses in the answer are \
                           dns.resolved_ips";

/// Other spellings of fields, which stay as they were written.
const ALIASES: [(&str, &str); 2] =
    [("net.detected_protocol", "net.protocol.detection"), ("traffic.onramp", "net.onramp.type")];

/// The schemes, each made once.
struct Schemes {
    dns: Scheme,
    dns_query: Scheme,
    dns_resolver: Scheme,
    l4: Scheme,
    egress: Scheme,
    http: Scheme,
    http_off: Scheme,
    http_request: Scheme,
    http_upload: Scheme,
    identity: Scheme,
    posture: Scheme,
    device_profile: Scheme,
    every: Scheme,
}

static SCHEMES: LazyLock<Schemes> = LazyLock::new(|| {
    let filter = |filter: Filter| scheme(title(filter), move |row| row.phase(filter));
    let http = filter(Filter::Http);
    let off = scheme(title(Filter::Http), |row| row.off);
    let home = |homes: &'static [Home]| move |row: &Row| homes.contains(&row.home).then_some(0);
    Schemes {
        dns: filter(Filter::Dns),
        dns_query: filter(Filter::Dns).with_latest(D0, "this action is decided before the query is resolved"),
        dns_resolver: filter(Filter::DnsResolver),
        l4: filter(Filter::L4),
        egress: filter(Filter::Egress),
        http_off: off.with_latest(H0, "this action is decided before anything is decrypted"),
        http_request: http.clone().with_latest(H1, "this action is decided before the request's body"),
        http_upload: http.clone().with_latest(H2, "this action is decided before the response"),
        http,
        identity: scheme("the identity expression", home(&[Home::Identity, Home::IdentityAndProfile])),
        posture: scheme("the device_posture expression", home(&[Home::Posture])),
        device_profile: scheme("device profiles", home(&[Home::Profile, Home::IdentityAndProfile])),
        every: scheme("vectors", |row| row.off.or(row.l4).or(row.egress).or(row.dns).or(Some(0))),
    }
});

/// The rows that have a phase, as fields; the others are known to be elsewhere.
fn scheme(name: &'static str, phase: impl Fn(&Row) -> Option<Phase>) -> Scheme {
    let rows = || (0..).zip(&TABLE);
    let names = |row: &Row| {
        let name = row.name;
        let aliases = ALIASES.iter().filter(move |(_, field)| *field == name).map(|(alias, _)| *alias);
        std::iter::once(name).chain(aliases)
    };
    let fields = rows().filter_map(|(slot, row)| {
        let phase = phase(row)?;
        let Row { kind, meaning, caution, .. } = *row;
        Some(names(row).map(move |name| Field { name, slot, kind, phase, meaning, caution }))
    });
    let elsewhere = rows().flat_map(|(_, row)| names(row).map(|name| (name, row.at_home())));
    Scheme::new(name, fields.flatten()).with_elsewhere(elsewhere.collect::<Vec<_>>())
}
