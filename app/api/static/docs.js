// Shows openapi.json. Nothing is fetched from anywhere but this service: the page's policy forbids it.

// NDJSON is text of many JSON lines. Swagger UI takes it for one JSON value, since its name ends in "json".
const isLines = (contentType) => /^application\/x-ndjson\b/i.test(contentType || "");
const NdjsonAsLines = () => ({
  afterLoad() {
    const inherited = this.fn.getSampleSchema;
    this.fn.getSampleSchema = (schema, contentType, config, example) =>
      isLines(contentType) && typeof example === "string" ? example : inherited(schema, contentType, config, example);
  },
  wrapComponents: {
    responseBody: (Original, { React }) => (props) =>
      React.createElement(Original, isLines(props.contentType) ? { ...props, contentType: "text/plain" } : props),
  },
});

window.addEventListener("load", () => {
  window.ui = SwaggerUIBundle({
    url: "openapi.json",
    dom_id: "#swagger-ui",
    deepLinking: true,
    defaultModelsExpandDepth: 0,
    displayRequestDuration: true,
    tryItOutEnabled: true,
    validatorUrl: null,
    presets: [SwaggerUIBundle.presets.apis],
    plugins: [NdjsonAsLines],
    layout: "BaseLayout",
  });
});
