//! The OpenAPI document, made from the types. Checked in as `schemas/deployer.openapi.json`.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::types::{
    ClaimRequest, DesiredSystemRequest, NewToken, NodeList, RegisterRequest, ReinstallRequest, TokenList,
    TokenRequestBody,
};
use crate::deployer::nodes::{NodeDetail, NodeStatus};
use crate::provisioning::{DesiredSystemAnswer, NodeEventReport, PhoneHome, PhoneHomeAnswer, Problem};

/// Who may ask.
#[derive(Clone, Copy)]
enum Access {
    Anybody,
    Bootstrap,
    Node,
    Admin,
}

/// One method of one path.
struct Operation {
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    access: Access,
    parameters: Vec<Value>,
    request: Option<Value>,
    success: Vec<Success>,
    refusals: &'static [&'static str],
}

/// Status, what it means, type of content and its schema.
type Success = (&'static str, &'static str, Option<(&'static str, Value)>);

/// The document, indented, with a final newline.
pub fn openapi() -> String {
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let problem = schema::<Problem>(&mut generator);
    let mut paths = Map::new();
    for operation in operations(&mut generator) {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = written(&operation, &problem);
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "bootproof deployer",
            "version": "1",
            "description": "Machines phone home, are told what to become, report how far they are, and ask what to run.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {
                "bootstrapToken": { "type": "http", "scheme": "bearer", "description": "For one machine, until it is installed." },
                "nodeCredential": { "type": "http", "scheme": "bearer", "description": "From the answer to phoning home." },
                "adminToken": { "type": "http", "scheme": "bearer", "description": "The file `admin-token` in the state folder." },
            },
        },
    });
    format!("{document:#}\n")
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

fn written(operation: &Operation, problem: &Value) -> Value {
    let mut responses = Map::new();
    for (status, description, content) in &operation.success {
        let mut response = json!({ "description": description });
        if let Some((kind, schema)) = content {
            response["content"] = json!({ *kind: { "schema": schema } });
        }
        responses.insert((*status).into(), response);
    }
    for status in operation.refusals {
        let content = json!({ "application/problem+json": { "schema": problem } });
        responses.insert((*status).into(), json!({ "description": meaning(status), "content": content }));
    }
    let security = match operation.access {
        Access::Anybody => json!([]),
        Access::Bootstrap => json!([{ "bootstrapToken": [] }, { "nodeCredential": [] }, {}]),
        Access::Node => json!([{ "nodeCredential": [] }]),
        Access::Admin => json!([{ "adminToken": [] }]),
    };
    let mut written = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "security": security,
        "responses": responses,
    });
    if !operation.parameters.is_empty() {
        written["parameters"] = operation.parameters.clone().into();
    }
    if let Some(request) = &operation.request {
        written["requestBody"] = json!({ "required": true, "content": { "application/json": { "schema": request } } });
    }
    written
}

fn meaning(status: &str) -> &'static str {
    match status {
        "400" => "the request cannot be understood",
        "401" => "the token or credential is missing, unknown, expired, used or revoked",
        "403" => "not for this node",
        "404" => "there is no such thing",
        "408" => "the request took too long",
        "409" => "it does not go together with what is",
        "413" => "the body is too large",
        "416" => "the bundle does not have this range",
        "422" => "it names what is not there, or the `Idempotency-Key` came with another request",
        "503" => "the state or a bundle cannot be read or written; nothing was changed",
        _ => "refused",
    }
}

fn in_path(name: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
}

fn in_query(name: &str, description: &str, schema: Value) -> Value {
    json!({ "name": name, "in": "query", "description": description, "schema": schema })
}

fn key() -> Value {
    json!({
        "name": "Idempotency-Key", "in": "header",
        "description": "The same request with the same key is done once, and answered the same.",
        "schema": { "type": "string", "minLength": 1, "maxLength": 255 },
    })
}

fn operations(generator: &mut SchemaGenerator) -> Vec<Operation> {
    const JSON: &str = "application/json";
    let whole = json!({ "type": "integer", "minimum": 0 });
    let bytes = json!({ "type": "string", "format": "binary" });
    let status = schema::<NodeStatus>(generator);
    let state = schema::<crate::provisioning::NodeState>(generator);
    let node_change = |path, id, summary, method, request: Option<Value>| Operation {
        method,
        path,
        id,
        summary,
        access: Access::Admin,
        parameters: vec![in_path("node"), key()],
        request,
        success: vec![("200", "the node afterwards", Some((JSON, status.clone())))],
        refusals: &["400", "401", "404", "409", "422", "503"],
    };
    vec![
        Operation {
            method: "get",
            path: "/ca.pem",
            id: "getAuthority",
            summary: "The certificate of the CA, over plain HTTP too",
            access: Access::Anybody,
            parameters: vec![],
            request: None,
            success: vec![("200", "PEM", Some(("application/x-pem-file", json!({ "type": "string" }))))],
            refusals: &["404"],
        },
        Operation {
            method: "get",
            path: "/api/v1/openapi.json",
            id: "getDocument",
            summary: "This document",
            access: Access::Anybody,
            parameters: vec![],
            request: None,
            success: vec![("200", "OpenAPI 3.1", Some((JSON, json!({ "type": "object" }))))],
            refusals: &[],
        },
        Operation {
            method: "get",
            path: "/netboot/ipxe",
            id: "getNetbootScript",
            summary: "An iPXE script: the installer, or the machine's own disk where it is installed",
            access: Access::Anybody,
            parameters: vec![
                in_query("mac", "Of the card that boots", json!({ "type": "string" })),
                in_query("serial", "DMI's serial number", json!({ "type": "string" })),
                in_query("uuid", "DMI's UUID", json!({ "type": "string" })),
            ],
            request: None,
            success: vec![("200", "an iPXE script", Some(("text/plain", json!({ "type": "string" }))))],
            refusals: &["400", "404", "503"],
        },
        Operation {
            method: "get",
            path: "/netboot/files/{name}",
            id: "getNetbootFile",
            summary: "The kernel or an initrd",
            access: Access::Anybody,
            parameters: vec![in_path("name")],
            request: None,
            success: vec![("200", "the file", Some(("application/octet-stream", bytes.clone())))],
            refusals: &["404", "503"],
        },
        Operation {
            method: "post",
            path: "/api/v1/phone-home",
            id: "phoneHome",
            summary: "A machine says who it is, and is told what to become",
            access: Access::Bootstrap,
            parameters: vec![in_query("wait", "Seconds to wait to be claimed, 300 at most", whole.clone())],
            request: Some(schema::<PhoneHome>(generator)),
            success: vec![(
                "200",
                "the node, and its plan once there is one",
                Some((JSON, schema::<PhoneHomeAnswer>(generator))),
            )],
            refusals: &["400", "401", "403", "408", "409", "413", "503"],
        },
        Operation {
            method: "post",
            path: "/api/v1/node/events",
            id: "report",
            summary: "A node reports how far it is; the same report again changes nothing",
            access: Access::Node,
            parameters: vec![],
            request: Some(schema::<NodeEventReport>(generator)),
            success: vec![("204", "it is taken", None)],
            refusals: &["400", "401", "408", "409", "413", "503"],
        },
        Operation {
            method: "get",
            path: "/api/v1/node/desired-system",
            id: "getDesiredSystem",
            summary: "What the node shall run",
            access: Access::Node,
            parameters: vec![
                in_query("known", "Wait for another generation than this", whole.clone()),
                in_query("wait", "Seconds, 300 at most", whole.clone()),
            ],
            request: None,
            success: vec![(
                "200",
                "the system and its generation",
                Some((JSON, schema::<DesiredSystemAnswer>(generator))),
            )],
            refusals: &["400", "401", "503"],
        },
        Operation {
            method: "get",
            path: "/api/v1/bundles/{digest}",
            id: "getBundle",
            summary: "A bundle's bytes, whole or a range of them",
            access: Access::Node,
            parameters: vec![in_path("digest")],
            request: None,
            success: vec![
                ("200", "all of it", Some(("application/octet-stream", bytes.clone()))),
                ("206", "the range", Some(("application/octet-stream", bytes))),
            ],
            refusals: &["401", "404", "416", "503"],
        },
        Operation {
            method: "get",
            path: "/api/v1/admin/nodes",
            id: "listNodes",
            summary: "All nodes, or those in a state",
            access: Access::Admin,
            parameters: vec![in_query("state", "Only nodes in this state", state.clone())],
            request: None,
            success: vec![("200", "by name", Some((JSON, schema::<NodeList>(generator))))],
            refusals: &["400", "401", "503"],
        },
        Operation {
            method: "post",
            path: "/api/v1/admin/nodes",
            id: "registerNode",
            summary: "Make a node known before it comes",
            access: Access::Admin,
            parameters: vec![key()],
            request: Some(schema::<RegisterRequest>(generator)),
            success: vec![("201", "the node", Some((JSON, status.clone())))],
            refusals: &["400", "401", "409", "422", "503"],
        },
        Operation {
            method: "get",
            path: "/api/v1/admin/nodes/{node}",
            id: "showNode",
            summary: "A node with its history",
            access: Access::Admin,
            parameters: vec![
                in_path("node"),
                in_query("state", "With `wait`: answer once the node is in this state, or has failed", state),
                in_query("wait", "Seconds, 300 at most; then the answer is the node as it is", whole.clone()),
            ],
            request: None,
            success: vec![("200", "all that is known", Some((JSON, schema::<NodeDetail>(generator))))],
            refusals: &["400", "401", "404", "503"],
        },
        node_change(
            "/api/v1/admin/nodes/{node}/claim",
            "claimNode",
            "Say what a discovered, failed or retired node shall become",
            "post",
            Some(schema::<ClaimRequest>(generator)),
        ),
        node_change(
            "/api/v1/admin/nodes/{node}/reinstall",
            "reinstallNode",
            "Let a node be installed again",
            "post",
            Some(schema::<ReinstallRequest>(generator)),
        ),
        node_change(
            "/api/v1/admin/nodes/{node}/retire",
            "retireNode",
            "Take a node out of service: its credential and tokens are dead",
            "post",
            None,
        ),
        node_change(
            "/api/v1/admin/nodes/{node}/desired-system",
            "setDesiredSystem",
            "Let a node run another system",
            "put",
            Some(schema::<DesiredSystemRequest>(generator)),
        ),
        Operation {
            method: "get",
            path: "/api/v1/admin/tokens",
            id: "listTokens",
            summary: "Bootstrap tokens, without their values",
            access: Access::Admin,
            parameters: vec![],
            request: None,
            success: vec![("200", "newest last", Some((JSON, schema::<TokenList>(generator))))],
            refusals: &["401", "503"],
        },
        Operation {
            method: "post",
            path: "/api/v1/admin/tokens",
            id: "createToken",
            summary: "Make a bootstrap token, which is told here and nowhere else",
            access: Access::Admin,
            parameters: vec![key()],
            request: Some(schema::<TokenRequestBody>(generator)),
            success: vec![("201", "the token and its value", Some((JSON, schema::<NewToken>(generator))))],
            refusals: &["400", "401", "404", "409", "422", "503"],
        },
        Operation {
            method: "delete",
            path: "/api/v1/admin/tokens/{token}",
            id: "revokeToken",
            summary: "Make a bootstrap token good for nothing",
            access: Access::Admin,
            parameters: vec![in_path("token"), key()],
            request: None,
            success: vec![("204", "it is revoked", None)],
            refusals: &["401", "404", "422", "503"],
        },
    ]
}
