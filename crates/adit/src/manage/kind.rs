//! The kinds of objects that people manage: one table, from which commands, their flags and help, the columns of tables and
//! the keys of files come.
//!
//! What holds: a kind's fields are those that the API lets one write, under the API's names; a field that names another
//! object is written by that object's name or id. What the API only shows is not here.

/// A kind of object.
#[derive(Debug)]
pub(crate) struct Kind {
    /// As it is typed: with dashes on the command line, with underscores in files.
    pub(crate) name: &'static str,
    pub(crate) aliases: &'static [&'static str],
    pub(crate) about: &'static str,
    pub(crate) path: Path,
    /// The field by which people name it.
    pub(crate) key: &'static str,
    pub(crate) key_help: &'static str,
    /// What can be written, besides the key.
    pub(crate) fields: &'static [Field],
    /// Titles, and the fields below them.
    pub(crate) columns: &'static [(&'static str, &'static str)],
    pub(crate) writes: Writes,
    pub(crate) example: &'static str,
}

/// Where its objects are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// Below the account.
    Account(&'static str),
    /// Below the account's zone.
    Zone(&'static str),
    /// Below each tunnel: one of it.
    Tunnel(&'static str),
}

/// How its objects are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    /// Created by POST, changed by PATCH with what changes.
    Patch,
    /// Created by POST, changed by PUT with everything.
    Replace,
    /// A host name: created and changed by one call of its tunnel's.
    Hostname,
    /// There always is one: replaced by PUT.
    Singleton,
    /// Created and deleted, never changed.
    CreateOnly,
    /// Only deleted.
    DeleteOnly,
    /// Only read.
    Never,
}

/// A field that can be written.
#[derive(Debug)]
pub(crate) struct Field {
    /// The API's name.
    pub(crate) api: &'static str,
    /// As it is written in files; with dashes, the flag.
    pub(crate) key: &'static str,
    pub(crate) shape: Shape,
    pub(crate) when: When,
    pub(crate) help: &'static str,
}

/// What a field takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Text,
    Flag,
    Number,
    /// The name or id of another object.
    Reference(&'static str),
    /// An expression, in which `${list.NAME}` is the list of that name.
    Expression,
    /// Several texts.
    Texts,
    /// Values with descriptions.
    Items,
    /// An object; on the command line, as JSON or YAML.
    Object,
}

/// When a field can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// It has to be there when the object is made.
    Required,
    Optional,
    /// Only when the object is made.
    Creation,
    /// The same, and it has to be there.
    RequiredCreation,
}

impl When {
    pub(crate) const fn is_required(self) -> bool {
        matches!(self, Self::Required | Self::RequiredCreation)
    }

    pub(crate) const fn can_change(self) -> bool {
        matches!(self, Self::Required | Self::Optional)
    }
}

impl Kind {
    /// The kind of this name, singular or plural, with dashes or underscores.
    pub(crate) fn named(text: &str) -> Option<&'static Self> {
        let text = text.to_ascii_lowercase().replace('_', "-");
        let is = |name: &str| text == name || text.strip_suffix('s') == Some(name);
        KINDS.iter().find(|kind| is(kind.name) || kind.aliases.iter().any(|alias| is(alias)))
    }

    /// As it is written in files.
    pub(crate) fn in_files(&self) -> String {
        self.name.replace('-', "_")
    }

    pub(crate) fn field(&self, key: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.key == key || field.api == key)
    }

    pub(crate) const fn can_create(&self) -> bool {
        matches!(self.writes, Writes::Patch | Writes::Replace | Writes::Hostname | Writes::CreateOnly)
    }

    pub(crate) const fn can_edit(&self) -> bool {
        matches!(self.writes, Writes::Patch | Writes::Replace | Writes::Hostname | Writes::Singleton)
    }

    pub(crate) const fn can_delete(&self) -> bool {
        !matches!(self.writes, Writes::Singleton | Writes::Never)
    }

    /// Whether it can stand in files.
    pub(crate) const fn can_apply(&self) -> bool {
        self.can_edit()
    }
}

const fn field(api: &'static str, key: &'static str, shape: Shape, when: When, help: &'static str) -> Field {
    Field { api, key, shape, when, help }
}

/// Every kind, in the order in which one may need another.
pub(crate) static KINDS: &[Kind] = &[
    Kind {
        name: "tunnel",
        aliases: &[],
        about: "A tunnel: what a connector in a private network keeps open",
        path: Path::Account("cfd_tunnel"),
        key: "name",
        key_help: "Its name",
        fields: &[
            field(
                "config_src",
                "config_src",
                Shape::Text,
                When::Creation,
                "Where its configuration is: local or cloudflare (here)",
            ),
            field(
                "tunnel_secret",
                "tunnel_secret",
                Shape::Text,
                When::Creation,
                "Secret, base64 of at least 32 bytes; made up if not given",
            ),
        ],
        columns: &[
            ("ID", "id"),
            ("NAME", "name"),
            ("STATUS", "status"),
            ("CONNECTIONS", "connections"),
            ("CREATED", "created_at"),
        ],
        writes: Writes::Patch,
        example: "create tunnel k8s --config-src cloudflare",
    },
    Kind {
        name: "tunnel-configuration",
        aliases: &["tunnel-config", "configuration", "config"],
        about: "What the connectors of a tunnel do with what they are sent",
        path: Path::Tunnel("configurations"),
        key: "tunnel",
        key_help: "Its tunnel",
        fields: &[field(
            "config",
            "config",
            Shape::Object,
            When::Required,
            "The object with ingress, originRequest and warp-routing",
        )],
        columns: &[
            ("TUNNEL", "tunnel_id"),
            ("VERSION", "version"),
            ("SOURCE", "source"),
            ("CREATED", "created_at"),
        ],
        writes: Writes::Singleton,
        example: "edit tunnel-configuration k8s --config '{ingress: [{service: \"http://localhost:8080\"}]}'",
    },
    Kind {
        name: "virtual-network",
        aliases: &["vnet", "network", "virtualnetwork"],
        about: "A virtual network, for private networks that use the same addresses",
        path: Path::Account("teamnet/virtual_networks"),
        key: "name",
        key_help: "Its name",
        fields: &[
            field("comment", "comment", Shape::Text, When::Optional, "A note"),
            field(
                "is_default_network",
                "is_default_network",
                Shape::Flag,
                When::Optional,
                "Whether it is used where none is named",
            ),
        ],
        columns: &[
            ("ID", "id"),
            ("NAME", "name"),
            ("DEFAULT", "is_default_network"),
            ("COMMENT", "comment"),
            ("CREATED", "created_at"),
        ],
        writes: Writes::Patch,
        example: "create virtual-network staging --comment 'same addresses as production'",
    },
    Kind {
        name: "list",
        aliases: &["gateway-list"],
        about: "A list of addresses, domains or other values that rules name",
        path: Path::Account("gateway/lists"),
        key: "name",
        key_help: "Its name",
        fields: &[
            field(
                "type",
                "type",
                Shape::Text,
                When::RequiredCreation,
                "IP, DOMAIN, URL, EMAIL, SERIAL or DEVICE",
            ),
            field("description", "description", Shape::Text, When::Optional, "A note"),
            field(
                "items",
                "items",
                Shape::Items,
                When::Optional,
                "A value; all of them replace those that are there",
            ),
        ],
        columns: &[
            ("ID", "id"),
            ("NAME", "name"),
            ("TYPE", "type"),
            ("ITEMS", "count"),
            ("UPDATED", "updated_at"),
        ],
        writes: Writes::Replace,
        example: "create list offices --type IP --items 192.0.2.0/24 --items 198.51.100.7",
    },
    Kind {
        name: "origin-root",
        aliases: &["originroot"],
        about: "Authorities by which the account's own origins are trusted where TLS is opened",
        path: Path::Account("x/gateway/origin_roots"),
        key: "name",
        key_help: "Its name",
        fields: &[
            field(
                "certificate",
                "certificate",
                Shape::Text,
                When::Required,
                "Certificates of authorities as PEM, one behind the other",
            ),
            field(
                "virtual_networks",
                "virtual_networks",
                Shape::Texts,
                When::Optional,
                "Ids of virtual networks, if it is good in these only; may be repeated",
            ),
            field(
                "host_suffixes",
                "host_suffixes",
                Shape::Texts,
                When::Optional,
                "A domain, if it is good for names below such only; may be repeated",
            ),
        ],
        columns: &[
            ("ID", "id"),
            ("NAME", "name"),
            ("DOMAINS", "host_suffixes"),
            ("EXPIRES", "expires_on"),
            ("UPDATED", "updated_at"),
        ],
        writes: Writes::Replace,
        example: "create origin-root lab --certificate \"$(cat lab-ca.pem)\" --host-suffixes lab.example",
    },
    Kind {
        name: "service-token",
        aliases: &["svctoken"],
        about: "A service token, by which programs and devices are let in",
        path: Path::Account("access/service_tokens"),
        key: "name",
        key_help: "Its name",
        fields: &[field(
            "duration",
            "duration",
            Shape::Text,
            When::Optional,
            "How long it is good, such as 8760h or forever",
        )],
        columns: &[
            ("ID", "id"),
            ("NAME", "name"),
            ("CLIENT ID", "client_id"),
            ("EXPIRES", "expires_at"),
            ("CREATED", "created_at"),
        ],
        writes: Writes::Replace,
        example: "create service-token ci --duration 8760h",
    },
    Kind {
        name: "hostname",
        aliases: &["dns-record", "dns"],
        about: "A public host name that leads to a tunnel",
        path: Path::Zone("dns_records"),
        key: "name",
        key_help: "The host name",
        fields: &[field(
            "content",
            "tunnel",
            Shape::Reference("tunnel"),
            When::Required,
            "The tunnel to which it leads",
        )],
        columns: &[("ID", "id"), ("NAME", "name"), ("LEADS TO", "content"), ("CREATED", "created_on")],
        writes: Writes::Hostname,
        example: "create hostname app.example.com --tunnel k8s",
    },
    Kind {
        name: "route",
        aliases: &[],
        about: "A private network by address, and the tunnel to which it leads",
        path: Path::Account("teamnet/routes"),
        key: "network",
        key_help: "Addresses, such as 10.0.0.0/8 or 2001:db8::/32",
        fields: &[
            field(
                "tunnel_id",
                "tunnel",
                Shape::Reference("tunnel"),
                When::Required,
                "The tunnel to which it leads",
            ),
            field(
                "virtual_network_id",
                "virtual_network",
                Shape::Reference("virtual-network"),
                When::Optional,
                "The virtual network in which; without it, the default one",
            ),
            field("comment", "comment", Shape::Text, When::Optional, "A note"),
        ],
        columns: &[
            ("ID", "id"),
            ("NETWORK", "network"),
            ("TUNNEL", "tunnel_name"),
            ("VIRTUAL NETWORK", "virtual_network_name"),
            ("COMMENT", "comment"),
        ],
        writes: Writes::Patch,
        example: "create route 10.0.0.0/8 --tunnel k8s --comment 'cluster network'",
    },
    Kind {
        name: "hostname-route",
        aliases: &["private-hostname"],
        about: "A private name, or all below one, and the tunnel to which it leads",
        path: Path::Account("zerotrust/routes/hostname"),
        key: "hostname",
        key_help: "The name, such as wiki.corp.internal or *.corp.internal",
        fields: &[
            field(
                "tunnel_id",
                "tunnel",
                Shape::Reference("tunnel"),
                When::Required,
                "The tunnel to which it leads",
            ),
            field("comment", "comment", Shape::Text, When::Optional, "A note"),
        ],
        columns: &[
            ("ID", "id"),
            ("NAME", "hostname"),
            ("TUNNEL", "tunnel_name"),
            ("COMMENT", "comment"),
            ("CREATED", "created_at"),
        ],
        writes: Writes::Patch,
        example: "create hostname-route '*.corp.internal' --tunnel k8s",
    },
    Kind {
        name: "rule",
        aliases: &["gateway-rule"],
        about: "A gateway rule: which traffic is let through, and which is not",
        path: Path::Account("gateway/rules"),
        key: "name",
        key_help: "Its name",
        fields: &[
            field(
                "action",
                "action",
                Shape::Text,
                When::Required,
                "What happens to what matches, such as allow or block",
            ),
            field(
                "filters",
                "filters",
                Shape::Texts,
                When::Optional,
                "dns, http, l4, egress or dns_resolver",
            ),
            field(
                "traffic",
                "traffic",
                Shape::Expression,
                When::Optional,
                "Which traffic; a list is ${list.NAME}",
            ),
            field("identity", "identity", Shape::Expression, When::Optional, "Whose"),
            field(
                "device_posture",
                "device_posture",
                Shape::Expression,
                When::Optional,
                "From which devices",
            ),
            field(
                "precedence",
                "precedence",
                Shape::Number,
                When::Optional,
                "Its place: lower ones go first",
            ),
            field("enabled", "enabled", Shape::Flag, When::Optional, "Whether it is in force"),
            field("description", "description", Shape::Text, When::Optional, "A note"),
            field("rule_settings", "rule_settings", Shape::Object, When::Optional, "Settings of its action"),
            field("schedule", "schedule", Shape::Object, When::Optional, "When it is in force"),
            field("expiration", "expiration", Shape::Object, When::Optional, "Until when it is in force"),
        ],
        columns: &[
            ("ID", "id"),
            ("PRECEDENCE", "precedence"),
            ("NAME", "name"),
            ("ENABLED", "enabled"),
            ("ACTION", "action"),
            ("FILTERS", "filters"),
            ("TRAFFIC", "traffic"),
        ],
        writes: Writes::Replace,
        example: "create rule offices --action allow --filters l4 --traffic 'net.src.ip in ${list.offices}' --enabled",
    },
    Kind {
        name: "device",
        aliases: &["physical-device"],
        about: "A device that was enrolled",
        path: Path::Account("devices/physical-devices"),
        key: "name",
        key_help: "Its name",
        fields: &[],
        columns: &[
            ("ID", "id"),
            ("NAME", "name"),
            ("TYPE", "device_type"),
            ("LAST SEEN", "last_seen_at"),
            ("REGISTRATIONS", "active_registrations"),
        ],
        writes: Writes::DeleteOnly,
        example: "delete device 4f0c7a1e-5a53-4c7b-9f0a-0d6f0c6f2f11",
    },
    Kind {
        name: "token",
        aliases: &["api-token"],
        about: "An API token",
        path: Path::Account("tokens"),
        key: "name",
        key_help: "Its name",
        fields: &[
            field(
                "permissions",
                "permission",
                Shape::Texts,
                When::RequiredCreation,
                "What it may, such as 'Cloudflare Tunnel Write' or 'Zero Trust Read'; may be repeated",
            ),
            field(
                "expires_on",
                "expires_on",
                Shape::Text,
                When::Creation,
                "Until when it is good, such as 2030-01-01T00:00:00Z; without it, until it is deleted",
            ),
            field("not_before", "not_before", Shape::Text, When::Creation, "From when on it is good"),
            field(
                "allow_from",
                "allow_from",
                Shape::Texts,
                When::Creation,
                "Addresses from which it may be used, such as 192.0.2.0/24; may be repeated",
            ),
        ],
        columns: &[
            ("ID", "id"),
            ("NAME", "name"),
            ("STATUS", "status"),
            ("EXPIRES", "expires_on"),
            ("ISSUED", "issued_on"),
        ],
        writes: Writes::CreateOnly,
        example: "create token terraform --permission 'Cloudflare Tunnel Write' --permission 'Zero Trust Write'",
    },
    Kind {
        name: "audit-record",
        aliases: &["audit", "audit-log"],
        about: "Who changed what, and when; newest first",
        path: Path::Account("audit_logs"),
        key: "id",
        key_help: "Its id",
        fields: &[],
        columns: &[
            ("WHEN", "when"),
            ("ACTION", "action/type"),
            ("RESOURCE", "resource/type"),
            ("ID", "resource/id"),
            ("BY", "actor/email"),
        ],
        writes: Writes::Never,
        example: "get audit-records",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_found_by_every_way_to_write_it() {
        for text in ["route", "routes", "Route"] {
            assert_eq!(Kind::named(text).unwrap().name, "route");
        }
        for text in ["virtual_network", "virtual-networks", "vnet", "vnets"] {
            assert_eq!(Kind::named(text).unwrap().name, "virtual-network");
        }
        assert!(Kind::named("pod").is_none() && Kind::named("").is_none());
    }

    #[test]
    fn no_two_kinds_share_a_name_and_references_lead_to_kinds() {
        let names: Vec<&str> =
            KINDS.iter().flat_map(|kind| std::iter::once(&kind.name).chain(kind.aliases)).copied().collect();
        for (at, name) in names.iter().enumerate() {
            assert!(!names[at + 1..].contains(name), "{name} is there twice");
        }
        for field in KINDS.iter().flat_map(|kind| kind.fields) {
            if let Shape::Reference(kind) = field.shape {
                assert!(Kind::named(kind).is_some(), "{kind}");
            }
        }
    }
}
