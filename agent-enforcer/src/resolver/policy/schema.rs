//! The JSON Schema of policy files, for editors.
//!
//! In: the types of [`super::document`]. Out: a schema, committed as `policies/schema.json`. It
//! says what an editor can check; what only the daemon can check (overlaps, unknown names) is not
//! in it.

use schemars::{
    Schema, SchemaGenerator, generate::SchemaSettings, json_schema, transform::RecursiveTransform,
};

use super::document::{API_VERSION, Document};

/// The schema of one policy file, pretty-printed, with a final newline.
pub fn json_schema() -> String {
    let mut settings = SchemaSettings::draft07();
    settings.inline_subschemas = true;
    // An optional key has no null form: `mode:` without a value is refused.
    settings.transforms.push(Box::new(RecursiveTransform(|schema: &mut Schema| {
        if schema.get("default").is_some_and(serde_json::Value::is_null) {
            schema.remove("default");
        }
    })));
    let schema = settings.into_generator().into_root_schema_for::<Document>();
    format!("{:#}\n", schema.as_value())
}

pub(super) fn api_version(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "const": API_VERSION })
}

pub(super) fn name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,62}$" })
}

pub(super) fn ports(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "items": {
            "oneOf": [
                { "type": "integer", "minimum": 1, "maximum": 65535 },
                { "type": "string", "pattern": "^[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?$" },
            ],
        },
    })
}

pub(super) fn endpoints(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "string",
            "pattern": "^(unix:/.+|unix:@.+|vsock:[0-9]+:([0-9]+|\\*)|netlink:[a-z0-9_]+|family:[a-z0-9]+)$",
        },
    })
}

pub(super) fn tool_names(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "minItems": 1, "items": { "type": "string" } })
}

pub(super) fn stall_tcp(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["hold", "park"] })
}

pub(super) fn protocol(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "oneOf": [
            { "enum": ["tcp", "udp"] },
            {
                "type": "array",
                "minItems": 1,
                "uniqueItems": true,
                "items": { "enum": ["tcp", "udp"] },
            },
        ],
    })
}

pub(super) fn selectors(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "string",
                "pattern": "^(systemd:id:.+|unix:uid:[0-9]+|unix:path:/.+|unix:sha256:[0-9a-f]{64}|cgroup:path:/.+)$",
            },
        },
    })
}

pub(super) fn on_miss(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["stall", "deny"] })
}

pub(super) fn listen(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "string",
            "pattern": "^([0-9./]+|\\[[0-9a-f:./]+\\]|\\*):[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?$",
        },
    })
}

pub(super) fn approval(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["none", "required"] })
}

pub(super) fn local_grants(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["allow", "deny"] })
}

pub(super) fn attendance(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["attended", "unattended"] })
}

pub(super) fn webhook_url(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^https://[^#@]+$" })
}

pub(super) fn absolute_path(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^/" })
}

pub(super) fn retries(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "minimum": 0, "maximum": 10 })
}

pub(super) fn user_id(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "minimum": 0, "maximum": u32::MAX - 1 })
}

pub(super) fn spiffe_id(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": "^spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+$",
        "maxLength": 2048,
    })
}

pub(super) fn attestation(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["local", "spiffe"] })
}

fn key() -> serde_json::Value {
    serde_json::json!({
        "type": "object",
        "required": ["kty", "crv", "x", "kid"],
        "additionalProperties": false,
        "properties": {
            "kty": { "enum": ["OKP", "EC"] },
            "crv": { "enum": ["Ed25519", "P-256"] },
            "x": { "type": "string" },
            "y": { "type": "string" },
            "kid": { "type": "string", "minLength": 1, "maxLength": 128 },
            "alg": { "enum": ["EdDSA", "ES256"] },
            "use": { "const": "sig" },
        },
    })
}

pub(super) fn keys(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": key() })
}

pub(super) fn issuers(_: &mut SchemaGenerator) -> Schema {
    let names = serde_json::json!({ "type": "array", "items": { "type": "string" } });
    json_schema!({
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name", "keys", "agents", "tools"],
            "additionalProperties": false,
            "properties": {
                "name": { "type": "string", "description": "What its tokens say in `iss`." },
                "keys": {
                    "type": "array",
                    "minItems": 1,
                    "items": { "oneOf": [{ "type": "string" }, key()] },
                    "description": "Its keys: each by its `kid`, or written out.",
                },
                "agents": names,
                "tools": names,
                "must_attenuate": {
                    "type": "boolean",
                    "default": false,
                    "description": "Whether it may only hand on a part of what another token permitted.",
                },
            },
        },
    })
}

pub(super) fn mode(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["enforce", "audit"] })
}

pub(super) fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "examples": ["500ms", "30s", "2m"] })
}

pub(super) fn socket_mark(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "oneOf": [
            { "type": "integer", "minimum": 1, "maximum": u32::MAX },
            { "type": "string", "pattern": "^(0x[0-9a-fA-F]{1,8}|[1-9][0-9]{0,9})$" },
        ],
    })
}
