"""Tiers, meters, plans and versions, APIs and bundles, keys of gateways, and the public catalog."""

import json
from functools import cache
from http import HTTPStatus
from pathlib import Path as File
from typing import Annotated, Any

from aws_lambda_powertools import Logger, Tracer
from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Path, Query
from aws_lambda_powertools.logging.correlation_paths import API_GATEWAY_HTTP
from aws_lambda_powertools.utilities.typing import LambdaContext

from monetize import wiring
from monetize.domain.offering import Offered
from monetize.http import catalog_schemas as schemas
from monetize.http import resolver
from monetize.http.caller import PUBLISHER_ADMIN, PUBLISHER_VIEWER
from monetize.http.schemas import MAX_PAGE, from_cursor
from monetize.services import catalog, plans
from monetize.services.catalog import API, BUNDLE, Act

logger = Logger()
tracer = Tracer()
app = resolver.build()

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many at most")]
Cursor = Annotated[str | None, Query(max_length=700, description="Where a list goes on, from the answer before")]
Id = Annotated[str, Path(max_length=100)]
Number = Annotated[int, Path(ge=1, le=9999)]


def _reader() -> str:
    """The organization whose catalog is read."""
    return resolver.who(app, PUBLISHER_ADMIN, PUBLISHER_VIEWER).organization


def _act() -> Act:
    """Who changes the catalog of which organization, and when."""
    caller = resolver.who(app, PUBLISHER_ADMIN)
    return Act(caller.user, caller.organization, wiring.clock().now())


def _documented(status: HTTPStatus, model: type | None = None) -> dict[int, Any]:
    content = {} if model is None else {"content": {"application/json": {"model": model}}}
    return {int(status): {"description": status.phrase, **content}}


# ---- tiers


@app.post(
    "/tiers",
    summary="Make a tier",
    tags=["tiers"],
    responses=_documented(HTTPStatus.CREATED, schemas.TierResponse),
)
def post_tier(body: schemas.TierRequest) -> Response[schemas.TierResponse]:
    tier = catalog.create_tier(_act(), body.to_terms(), wiring.catalog())
    return resolver.reply(
        schemas.TierResponse.model_validate(tier),
        status=HTTPStatus.CREATED,
        rev=tier.rev,
        location=f"/tiers/{tier.id}",
    )


@app.get("/tiers", summary="List tiers", tags=["tiers"])
def get_tiers(limit: Limit = 50, cursor: Cursor = None) -> schemas.TierList:
    found, after = catalog.list_tiers(_reader(), from_cursor(cursor), limit, wiring.catalog())
    return schemas.TierList.of(found, after)


@app.get("/tiers/<tier>", summary="Read a tier", tags=["tiers"])
def get_tier(tier: Id) -> Response[schemas.TierResponse]:
    found = catalog.read_tier(_reader(), tier, wiring.catalog())
    return resolver.reply(schemas.TierResponse.model_validate(found), rev=found.rev)


@app.put("/tiers/<tier>", summary="Change a tier", tags=["tiers"])
def put_tier(tier: Id, body: schemas.TierRequest) -> Response[schemas.TierResponse]:
    changed = catalog.edit_tier(_act(), tier, resolver.expected_revision(app), body.to_terms(), wiring.catalog())
    return resolver.reply(schemas.TierResponse.model_validate(changed), rev=changed.rev)


@app.delete(
    "/tiers/<tier>", summary="Delete a tier not in use", tags=["tiers"], responses=_documented(HTTPStatus.NO_CONTENT)
)
def delete_tier(tier: Id) -> Response[Any]:
    catalog.delete_tier(_act(), tier, wiring.catalog())
    return resolver.nothing()


# ---- meters


@app.post(
    "/meters",
    summary="Make a meter",
    tags=["meters"],
    responses=_documented(HTTPStatus.CREATED, schemas.MeterResponse),
)
def post_meter(body: schemas.MeterRequest) -> Response[schemas.MeterResponse]:
    meter = catalog.create_meter(_act(), body.to_terms(), wiring.catalog())
    return resolver.reply(
        schemas.MeterResponse.model_validate(meter),
        status=HTTPStatus.CREATED,
        rev=meter.rev,
        location=f"/meters/{meter.id}",
    )


@app.get("/meters", summary="List meters", tags=["meters"])
def get_meters(limit: Limit = 50, cursor: Cursor = None) -> schemas.MeterList:
    found, after = wiring.catalog().store.meters(_reader(), from_cursor(cursor), limit)
    return schemas.MeterList.of(found, after)


@app.get("/meters/<meter>", summary="Read a meter", tags=["meters"])
def get_meter(meter: Id) -> Response[schemas.MeterResponse]:
    found = catalog.read_meter(_reader(), meter, wiring.catalog())
    return resolver.reply(schemas.MeterResponse.model_validate(found), rev=found.rev)


@app.put("/meters/<meter>", summary="Change a meter nothing counts with yet", tags=["meters"])
def put_meter(meter: Id, body: schemas.MeterRequest) -> Response[schemas.MeterResponse]:
    changed = catalog.edit_meter(_act(), meter, resolver.expected_revision(app), body.to_terms(), wiring.catalog())
    return resolver.reply(schemas.MeterResponse.model_validate(changed), rev=changed.rev)


@app.delete(
    "/meters/<meter>",
    summary="Delete a meter nothing counts with",
    tags=["meters"],
    responses=_documented(HTTPStatus.NO_CONTENT),
)
def delete_meter(meter: Id) -> Response[Any]:
    catalog.delete_meter(_act(), meter, wiring.catalog())
    return resolver.nothing()


# ---- plans


@app.post(
    "/plans",
    summary="Draft a plan",
    tags=["plans"],
    responses=_documented(HTTPStatus.CREATED, schemas.PlanResponse),
)
def post_plan(body: schemas.PlanRequest) -> Response[schemas.PlanResponse]:
    plan = plans.create_plan(_act(), body.to_draft(), wiring.plans())
    return resolver.reply(
        schemas.PlanResponse.of(plan), status=HTTPStatus.CREATED, rev=plan.rev, location=f"/plans/{plan.id}"
    )


@app.get("/plans", summary="List plans", tags=["plans"])
def get_plans(limit: Limit = 50, cursor: Cursor = None) -> schemas.PlanList:
    found, after = wiring.plans().store.plans(_reader(), from_cursor(cursor), limit)
    return schemas.PlanList.of(found, after)


@app.get("/plans/<plan>", summary="Read a plan and its draft", tags=["plans"])
def get_plan(plan: Id) -> Response[schemas.PlanResponse]:
    found = plans.read_plan(_reader(), plan, wiring.plans())
    return resolver.reply(schemas.PlanResponse.of(found), rev=found.rev)


@app.put("/plans/<plan>", summary="Change a plan's draft", tags=["plans"])
def put_plan(plan: Id, body: schemas.PlanRequest) -> Response[schemas.PlanResponse]:
    changed = plans.edit_plan(_act(), plan, resolver.expected_revision(app), body.to_draft(), wiring.plans())
    return resolver.reply(schemas.PlanResponse.of(changed), rev=changed.rev)


@app.delete(
    "/plans/<plan>",
    summary="Delete a plan that was never published",
    tags=["plans"],
    responses=_documented(HTTPStatus.NO_CONTENT),
)
def delete_plan(plan: Id) -> Response[Any]:
    plans.delete_plan(_act(), plan, wiring.plans())
    return resolver.nothing()


@app.post(
    "/plans/<plan>/publish",
    summary="Publish the draft as an immutable version",
    tags=["plans"],
    responses=_documented(HTTPStatus.CREATED, schemas.VersionResponse),
)
def post_publish(plan: Id) -> Response[schemas.VersionResponse]:
    version = plans.publish(_act(), plan, wiring.plans())
    return resolver.reply(
        schemas.VersionResponse.model_validate(version),
        status=HTTPStatus.CREATED,
        location=f"/plans/{plan}/versions/{version.number}",
    )


@app.post(
    "/plans/<plan>/versions",
    summary="Begin the draft of the next version",
    tags=["plans"],
    responses=_documented(HTTPStatus.CREATED, schemas.PlanResponse),
)
def post_version(plan: Id, body: schemas.VersionRequest) -> Response[schemas.PlanResponse]:
    changed = plans.begin_version(_act(), plan, body.to_domain(), wiring.plans())
    return resolver.reply(
        schemas.PlanResponse.of(changed), status=HTTPStatus.CREATED, rev=changed.rev, location=f"/plans/{plan}"
    )


@app.get("/plans/<plan>/versions", summary="List published versions", tags=["plans"])
def get_versions(plan: Id, limit: Limit = 50, cursor: Cursor = None) -> schemas.VersionList:
    found, after = plans.list_versions(_reader(), plan, from_cursor(cursor), limit, wiring.plans())
    return schemas.VersionList.of(found, after)


@app.get("/plans/<plan>/versions/<number>", summary="Read a published version", tags=["plans"])
def get_version(plan: Id, number: Number) -> schemas.VersionResponse:
    return schemas.VersionResponse.model_validate(plans.read_version(_reader(), plan, number, wiring.plans()))


@app.post("/plans/<plan>/archive", summary="Take no new subscriptions any more", tags=["plans"])
def post_archive(plan: Id) -> Response[schemas.PlanResponse]:
    archived = plans.archive_plan(_act(), plan, wiring.plans())
    return resolver.reply(schemas.PlanResponse.of(archived), rev=archived.rev)


@app.post("/plans/<plan>/preview", summary="What would this usage cost?", tags=["plans"])
def post_plan_preview(plan: Id, body: schemas.PreviewRequest) -> schemas.PreviewResponse:
    publisher = _reader()
    estimate = plans.preview(publisher, plan, body.to_question(), wiring.clock().now(), wiring.plans())
    return schemas.PreviewResponse.of(estimate)


@app.get("/plans/<plan>/subscriptions", summary="Who is on which version", tags=["plans"])
def get_plan_subscriptions(
    plan: Id,
    version: Annotated[int | None, Query(ge=1, le=9999)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> schemas.PlanSubscriptionList:
    found, after = plans.who_is_on(_reader(), plan, version, from_cursor(cursor), limit, wiring.plans())
    return schemas.PlanSubscriptionList.of(found, after)


@app.post(
    "/plans/<plan>/moves",
    summary="Move everybody on one version to another, in the background",
    tags=["plans"],
    responses=_documented(HTTPStatus.ACCEPTED, schemas.MoveResponse),
)
def post_move(plan: Id, body: schemas.MoveBody) -> Response[schemas.MoveResponse]:
    move = plans.start_move(_act(), plan, body.to_request(), wiring.plans())
    return resolver.reply(
        schemas.MoveResponse.model_validate(move),
        status=HTTPStatus.ACCEPTED,
        rev=move.rev,
        location=f"/plans/{plan}/moves/{move.id}",
    )


@app.get("/plans/<plan>/moves", summary="List moves", tags=["plans"])
def get_moves(plan: Id, limit: Limit = 50, cursor: Cursor = None) -> schemas.MoveList:
    found, after = plans.list_moves(_reader(), plan, from_cursor(cursor), limit, wiring.plans())
    return schemas.MoveList.of(found, after)


@app.get("/plans/<plan>/moves/<move>", summary="Watch a move", tags=["plans"])
def get_move(plan: Id, move: Id) -> Response[schemas.MoveResponse]:
    found = plans.read_move(_reader(), plan, move, wiring.plans())
    return resolver.reply(schemas.MoveResponse.model_validate(found), rev=found.rev)


# ---- APIs and bundles


def _product(offered: Offered, status: HTTPStatus = HTTPStatus.OK) -> Response[schemas.ProductResponse]:
    made = status is HTTPStatus.CREATED
    where = f"/{'bundles' if offered.product.bundle else 'apis'}/{offered.product.id}"
    return resolver.reply(
        schemas.ProductResponse.of(offered),
        status=status,
        rev=offered.product.rev,
        location=where if made else None,
    )


@app.post(
    "/apis",
    summary="Register an API",
    tags=["apis"],
    responses=_documented(HTTPStatus.CREATED, schemas.ProductResponse),
)
def post_api(body: schemas.ApiRequest) -> Response[schemas.ProductResponse]:
    return _product(catalog.create_product(_act(), API, body.to_terms(), wiring.catalog()), HTTPStatus.CREATED)


@app.get("/apis", summary="List APIs", tags=["apis"])
def get_apis(limit: Limit = 50, cursor: Cursor = None) -> schemas.ProductList:
    found, after = catalog.list_products(_reader(), API, from_cursor(cursor), limit, wiring.catalog())
    return schemas.ProductList.of(found, after)


@app.get("/apis/<api>", summary="Read an API", tags=["apis"])
def get_api(api: Id) -> Response[schemas.ProductResponse]:
    return _product(catalog.read_product(_reader(), API, api, wiring.catalog()))


@app.put("/apis/<api>", summary="Change an API", tags=["apis"])
def put_api(api: Id, body: schemas.ApiRequest) -> Response[schemas.ProductResponse]:
    expected = resolver.expected_revision(app)
    return _product(catalog.edit_product(_act(), API, api, expected, body.to_terms(), wiring.catalog()))


@app.delete(
    "/apis/<api>", summary="Delete an API not in use", tags=["apis"], responses=_documented(HTTPStatus.NO_CONTENT)
)
def delete_api(api: Id) -> Response[Any]:
    catalog.delete_product(_act(), API, api, wiring.catalog())
    return resolver.nothing()


@app.put("/apis/<api>/tiers", summary="Apply tiers to an API", tags=["apis"])
def put_api_tiers(api: Id, body: schemas.AppliedTiers) -> Response[schemas.ProductResponse]:
    expected = resolver.expected_revision(app)
    return _product(catalog.apply_tiers(_act(), API, api, expected, tuple(body.tiers), wiring.catalog()))


@app.post(
    "/bundles",
    summary="Make a bundle of APIs",
    tags=["bundles"],
    responses=_documented(HTTPStatus.CREATED, schemas.ProductResponse),
)
def post_bundle(body: schemas.BundleRequest) -> Response[schemas.ProductResponse]:
    return _product(catalog.create_product(_act(), BUNDLE, body.to_terms(), wiring.catalog()), HTTPStatus.CREATED)


@app.get("/bundles", summary="List bundles", tags=["bundles"])
def get_bundles(limit: Limit = 50, cursor: Cursor = None) -> schemas.ProductList:
    found, after = catalog.list_products(_reader(), BUNDLE, from_cursor(cursor), limit, wiring.catalog())
    return schemas.ProductList.of(found, after)


@app.get("/bundles/<bundle>", summary="Read a bundle", tags=["bundles"])
def get_bundle(bundle: Id) -> Response[schemas.ProductResponse]:
    return _product(catalog.read_product(_reader(), BUNDLE, bundle, wiring.catalog()))


@app.put("/bundles/<bundle>", summary="Change a bundle", tags=["bundles"])
def put_bundle(bundle: Id, body: schemas.BundleRequest) -> Response[schemas.ProductResponse]:
    expected = resolver.expected_revision(app)
    return _product(catalog.edit_product(_act(), BUNDLE, bundle, expected, body.to_terms(), wiring.catalog()))


@app.delete(
    "/bundles/<bundle>",
    summary="Delete a bundle not in use",
    tags=["bundles"],
    responses=_documented(HTTPStatus.NO_CONTENT),
)
def delete_bundle(bundle: Id) -> Response[Any]:
    catalog.delete_product(_act(), BUNDLE, bundle, wiring.catalog())
    return resolver.nothing()


@app.put("/bundles/<bundle>/tiers", summary="Apply tiers to a bundle", tags=["bundles"])
def put_bundle_tiers(bundle: Id, body: schemas.AppliedTiers) -> Response[schemas.ProductResponse]:
    expected = resolver.expected_revision(app)
    return _product(catalog.apply_tiers(_act(), BUNDLE, bundle, expected, tuple(body.tiers), wiring.catalog()))


# ---- keys of gateways


@app.post(
    "/gateway-keys",
    summary="Make a key for a gateway, shown once",
    tags=["gateway keys"],
    responses=_documented(HTTPStatus.CREATED, schemas.MadeGatewayKeyResponse),
)
def post_gateway_key(body: schemas.GatewayKeyRequest) -> Response[schemas.MadeGatewayKeyResponse]:
    asked = resolver.idempotency_key(app) if "idempotency-key" in app.current_event.headers else None
    made = catalog.make_gateway_key(_act(), body.name, asked, wiring.catalog())
    return resolver.reply(
        schemas.MadeGatewayKeyResponse.of_made(made),
        status=HTTPStatus.CREATED,
        location=f"/gateway-keys/{made.key.id}",
    )


@app.get("/gateway-keys", summary="List keys of gateways", tags=["gateway keys"])
def get_gateway_keys(limit: Limit = 50, cursor: Cursor = None) -> schemas.GatewayKeyList:
    found, after = wiring.catalog().store.gateway_keys(_reader(), from_cursor(cursor), limit)
    return schemas.GatewayKeyList.of(found, after)


@app.delete(
    "/gateway-keys/<key>",
    summary="Revoke a gateway's key",
    tags=["gateway keys"],
    responses=_documented(HTTPStatus.NO_CONTENT),
)
def delete_gateway_key(key: Id) -> Response[Any]:
    catalog.revoke_gateway_key(_act(), key, wiring.catalog())
    return resolver.nothing()


# ---- what everybody may see


@app.get("/catalog/<publisher>/products", summary="What a publisher offers", tags=["catalog"])
def get_catalog(publisher: Id, limit: Limit = 50, cursor: Cursor = None) -> schemas.CatalogList:
    found, after = catalog.public_products(publisher, from_cursor(cursor), limit, wiring.catalog())
    return schemas.CatalogList.of(found, after)


@app.get("/catalog/<publisher>/products/<product>", summary="One product with its tiers and prices", tags=["catalog"])
def get_catalog_product(publisher: Id, product: Id) -> schemas.CatalogProduct:
    return schemas.CatalogProduct.of(catalog.public_product(publisher, product, wiring.catalog()))


@app.get("/openapi.json", summary="This API as an OpenAPI 3.1 document", tags=["catalog"])
def get_openapi() -> Response[dict[str, Any]]:
    return Response(
        status_code=int(HTTPStatus.OK),
        content_type="application/json",
        body=_document(),
        headers={"Cache-Control": "public, max-age=300"},
    )


@cache
def _document() -> dict[str, Any]:
    # Packaged with the function; `python -m local.openapi --check` holds it to the handlers.
    document: dict[str, Any] = json.loads(File(__file__).with_name("openapi.json").read_text(encoding="utf-8"))
    return document


def _shows_a_key(method: str, path: str) -> bool:
    return method == "POST" and path == "/gateway-keys"


@logger.inject_lambda_context(correlation_id_path=API_GATEWAY_HTTP)
@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return resolver.answer(app, event, context, dynamodb=wiring.dynamodb(), secret=_shows_a_key)
