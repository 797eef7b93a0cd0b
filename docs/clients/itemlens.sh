#!/usr/bin/env bash
# Itemlens from a shell.
set -euo pipefail
url=${ITEMLENS_URL:-http://127.0.0.1:8000}
samples=$(dirname "${BASH_SOURCE[0]}")/../samples
key=()
[ -z "${ITEMLENS_API_KEY:-}" ] || key=(-H "X-API-Key: $ITEMLENS_API_KEY")

# A photo with its title. --retry waits for Retry-After when the service is overloaded.
echo "== classify"
curl --silent --show-error --fail-with-body --retry 3 "${key[@]}" "$url/v1/classify" \
  -F image=@"$samples/grey-tshirt.jpg" -F text='Puma Men Grey T-shirt' \
  -F attributes=articleType -F attributes=baseColour -F top_k=2
echo

# Several items are JSON. The second one is broken: it fails alone.
echo "== batch"
photo=$(base64 < "$samples/black-shoe.jpg" | tr -d '\n')
printf '{"items": [{"id": "sku-1", "image": "%s"}, {"id": "sku-2"}], "attributes": ["masterCategory"], "top_k": 1}' "$photo" |
  curl --silent --show-error --fail-with-body "${key[@]}" "$url/v1/classify" -H 'Content-Type: application/json' --data-binary @-
echo

# A vector of a title, 32 numbers long, to search an index of photo vectors with.
echo "== embed"
curl --silent --show-error --fail-with-body "${key[@]}" "$url/v1/embed" \
  -H 'Content-Type: application/json' -d '{"items": [{"text": "black sports shoes"}], "dimensions": 32}'
echo

# A refusal is a problem document with a stable code.
echo "== refusal"
curl --silent --show-error "${key[@]}" "$url/v1/classify" -H 'Content-Type: application/json' -d '{"items": [{}]}'
echo
