//! What the engine asks and what it is told, call by call of the plugin protocol.
//!
//! What holds: a failure is a diagnostic, never a broken call; an object that was made is told to the engine even if a later
//! call of its making failed. Every call may be cancelled by [`Provider::stop`].

mod configuration;
mod lifecycle;

use std::sync::{Arc, PoisonError, RwLock};

use prost::{DecodeError, Message};
use serde_json::Value as Json;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::convert;
use crate::diagnostic;
use crate::protocol as p;
use crate::resources::{RESOURCES, resource};
use crate::schema::{self, Resource};
use crate::value::{Object, Value, ValueError};

/// The provider, for one run of the engine.
#[derive(Debug)]
pub struct Provider {
    client: RwLock<Option<Arc<Client>>>,
    stopped: CancellationToken,
}

/// What to tell when the engine names a type that is not ours: it does so only with another version's schema.
fn unknown_type(name: &str) -> p::Diagnostic {
    diagnostic::error("Unknown resource type", format!("This provider has no {name:?}."))
}

impl Default for Provider {
    fn default() -> Self {
        Self::new()
    }
}

impl Provider {
    /// A provider that is not configured yet.
    pub fn new() -> Self {
        Self { client: RwLock::default(), stopped: CancellationToken::new() }
    }

    /// Ends every call to the API.
    pub fn stop(&self) {
        self.stopped.cancel();
    }

    /// The answer to one call of the protocol; `None` if there is no such method.
    ///
    /// # Errors
    /// The request is no message of that method.
    pub async fn answer(&self, method: &str, request: &[u8]) -> Result<Option<Vec<u8>>, DecodeError> {
        Ok(Some(match method {
            "GetMetadata" => metadata().encode_to_vec(),
            "GetProviderSchema" => provider_schema().encode_to_vec(),
            "ValidateProviderConfig" => p::ValidateProviderResponse::default().encode_to_vec(),
            "ConfigureProvider" => self.configure(&p::ConfigureRequest::decode(request)?).encode_to_vec(),
            "ValidateResourceConfig" | "ValidateDataResourceConfig" => {
                validated(&p::ConfigRequest::decode(request)?).encode_to_vec()
            }
            "UpgradeResourceState" => upgraded(&p::UpgradeRequest::decode(request)?).encode_to_vec(),
            "ReadResource" => self.read(p::ReadRequest::decode(request)?).await.encode_to_vec(),
            "PlanResourceChange" => planned(p::PlanRequest::decode(request)?).encode_to_vec(),
            "ApplyResourceChange" => self.apply(p::ApplyRequest::decode(request)?).await.encode_to_vec(),
            "ImportResourceState" => self.import(&p::ImportRequest::decode(request)?).await.encode_to_vec(),
            "MoveResourceState" => moved(&p::MoveRequest::decode(request)?).encode_to_vec(),
            "GetFunctions" => p::FunctionsResponse::default().encode_to_vec(),
            "StopProvider" => {
                self.stop();
                p::StopResponse::default().encode_to_vec()
            }
            _ => return Ok(None),
        }))
    }

    fn client(&self) -> Result<Arc<Client>, p::Diagnostic> {
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner).clone();
        client.ok_or_else(|| {
            let detail =
                "Its base_url or api_token is not known yet: it depends on something that is not applied.";
            diagnostic::error("The provider is not configured", detail)
        })
    }

    fn configure(&self, request: &p::ConfigureRequest) -> p::Diagnostics {
        let made = object(request.config.as_ref()).and_then(|config| {
            let engine = &request.terraform_version;
            configuration::client(&config, engine, self.stopped.clone())
        });
        match made {
            Ok(client) => {
                let mut place = self.client.write().unwrap_or_else(PoisonError::into_inner);
                *place = client.map(Arc::new);
                p::Diagnostics::default()
            }
            Err(diagnostic) => p::Diagnostics { diagnostics: vec![diagnostic] },
        }
    }

    async fn read(&self, request: p::ReadRequest) -> p::ReadResponse {
        let read = async {
            let resource =
                resource(&request.type_name).ok_or_else(|| vec![unknown_type(&request.type_name)])?;
            let state = maybe_object(request.current_state.as_ref()).map_err(|error| vec![error])?;
            let Some(state) = state else { return Ok((None, Vec::new())) };
            let client = self.client().map_err(|error| vec![error])?;
            lifecycle::read(&client, resource, state, &request.private).await
        };
        match read.await {
            Ok((state, private)) => {
                p::ReadResponse { new_state: Some(packed(state)), diagnostics: Vec::new(), private }
            }
            Err(diagnostics) => {
                p::ReadResponse { new_state: request.current_state, diagnostics, private: request.private }
            }
        }
    }

    async fn apply(&self, request: p::ApplyRequest) -> p::ApplyResponse {
        let parts = || {
            let resource = resource(&request.type_name).ok_or_else(|| unknown_type(&request.type_name))?;
            let prior = maybe_object(request.prior_state.as_ref())?;
            let planned = maybe_object(request.planned_state.as_ref())?;
            Ok((self.client()?, resource, prior, planned))
        };
        match parts() {
            Ok((client, resource, prior, planned)) => {
                let applied =
                    lifecycle::apply(&client, resource, prior, planned, request.planned_private).await;
                p::ApplyResponse {
                    new_state: Some(packed(applied.state)),
                    private: applied.private,
                    diagnostics: applied.diagnostics,
                }
            }
            Err(error) => p::ApplyResponse {
                new_state: request.prior_state,
                private: request.planned_private,
                diagnostics: vec![error],
            },
        }
    }

    async fn import(&self, request: &p::ImportRequest) -> p::ImportResponse {
        let imported = async {
            let resource = resource(&request.type_name).ok_or_else(|| unknown_type(&request.type_name))?;
            lifecycle::import(&*self.client()?, resource, &request.id).await
        };
        match imported.await {
            Ok(state) => p::ImportResponse {
                imported_resources: vec![p::Imported {
                    type_name: request.type_name.clone(),
                    state: Some(packed(Some(state))),
                    private: Vec::new(),
                }],
                diagnostics: Vec::new(),
            },
            Err(error) => p::ImportResponse { imported_resources: Vec::new(), diagnostics: vec![error] },
        }
    }
}

/// The types that there are, each under all of its names.
fn types() -> impl Iterator<Item = (&'static str, &'static Resource)> {
    RESOURCES.iter().flat_map(|resource| resource.names.iter().map(move |name| (*name, *resource)))
}

fn capabilities() -> p::ServerCapabilities {
    p::ServerCapabilities {
        plan_destroy: false,
        get_provider_schema_optional: true,
        move_resource_state: true,
    }
}

fn metadata() -> p::Metadata {
    p::Metadata {
        server_capabilities: Some(capabilities()),
        resources: types().map(|(name, _)| p::TypeName { type_name: name.to_owned() }).collect(),
        ..p::Metadata::default()
    }
}

fn provider_schema() -> p::ProviderSchema {
    let provider = schema::block(configuration::ATTRIBUTES, "adit's v4 API, or one like it.");
    p::ProviderSchema {
        provider: Some(p::Schema { version: 0, block: Some(provider) }),
        resource_schemas: types().map(|(name, resource)| (name.to_owned(), resource.schema())).collect(),
        server_capabilities: Some(capabilities()),
        ..p::ProviderSchema::default()
    }
}

/// The engine has checked types and what is required; the rest is the API's to say.
fn validated(request: &p::ConfigRequest) -> p::Diagnostics {
    let read = object(request.config.as_ref());
    p::Diagnostics { diagnostics: read.err().into_iter().collect() }
}

fn upgraded(request: &p::UpgradeRequest) -> p::StateResponse {
    let upgraded = || {
        let resource = resource(&request.type_name).ok_or_else(|| unknown_type(&request.type_name))?;
        saved(resource, request.raw_state.as_ref())
    };
    match upgraded() {
        Ok(state) => p::StateResponse { state: Some(packed(Some(state))), diagnostics: Vec::new() },
        Err(error) => p::StateResponse { state: None, diagnostics: vec![error] },
    }
}

/// A state of another type that is the same kind of object. Reading it afterwards fills what the other did not have.
fn moved(request: &p::MoveRequest) -> p::StateResponse {
    let moved = || {
        let target =
            resource(&request.target_type_name).ok_or_else(|| unknown_type(&request.target_type_name))?;
        let same_kind =
            resource(&request.source_type_name).is_some_and(|source| source.about == target.about);
        if same_kind {
            return saved(target, request.source_state.as_ref());
        }
        let detail = format!("A {} is another kind of object.", request.source_type_name);
        Err(diagnostic::error(format!("Cannot become a {}", request.target_type_name), detail))
    };
    match moved() {
        Ok(state) => p::StateResponse { state: Some(packed(Some(state))), diagnostics: Vec::new() },
        Err(error) => p::StateResponse { state: None, diagnostics: vec![error] },
    }
}

fn saved(resource: &'static Resource, raw: Option<&p::RawState>) -> Result<Object, p::Diagnostic> {
    let json: Result<Json, _> = serde_json::from_slice(raw.map_or(&[][..], |raw| &raw.json));
    match json {
        Ok(json) => Ok(convert::saved(resource.attributes, &json)),
        Err(error) => Err(diagnostic::error("The saved state cannot be read", error.to_string())),
    }
}

fn planned(request: p::PlanRequest) -> p::PlanResponse {
    let plan = || {
        let resource = resource(&request.type_name).ok_or_else(|| unknown_type(&request.type_name))?;
        let prior = maybe_object(request.prior_state.as_ref())?;
        let Some(config) = maybe_object(request.config.as_ref())? else { return Ok(None) };
        Ok(Some(crate::plan::plan(resource, &config, prior.as_ref())))
    };
    match plan() {
        Ok(plan) => {
            let replace = plan.as_ref().map(|plan| plan.replace.clone()).unwrap_or_default();
            p::PlanResponse {
                planned_state: Some(packed(plan.map(|plan| plan.state))),
                requires_replace: replace
                    .into_iter()
                    .map(|name| diagnostic::path(vec![diagnostic::named(name)]))
                    .collect(),
                planned_private: request.prior_private,
                diagnostics: Vec::new(),
            }
        }
        Err(error) => p::PlanResponse {
            planned_state: request.prior_state,
            requires_replace: Vec::new(),
            planned_private: request.prior_private,
            diagnostics: vec![error],
        },
    }
}

/// The object in a message; one that is not there is empty.
fn object(value: Option<&p::DynamicValue>) -> Result<Object, p::Diagnostic> {
    maybe_object(value).map(Option::unwrap_or_default)
}

/// The object in a message, unless it is null.
fn maybe_object(value: Option<&p::DynamicValue>) -> Result<Option<Object>, p::Diagnostic> {
    let read = |value: &p::DynamicValue| {
        if value.msgpack.is_empty() && !value.json.is_empty() {
            return Value::from_json(&serde_json::from_slice(&value.json)?);
        }
        Value::from_msgpack(&value.msgpack)
    };
    let unreadable =
        |error: ValueError| diagnostic::error("A value cannot be read", diagnostic::chain(&error));
    match value.map(read).transpose().map_err(unreadable)? {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(unreadable(ValueError::Unexpected { expected: "an object" })),
    }
}

fn packed(object: Option<Object>) -> p::DynamicValue {
    let value = object.map_or(Value::Null, Value::Object);
    p::DynamicValue { msgpack: value.to_msgpack(), json: Vec::new() }
}
