#!/usr/bin/env bash
# Itemlens from a shell.
set -euo pipefail
url=${ITEMLENS_URL:-http://127.0.0.1:8000}
samples=$(dirname "${BASH_SOURCE[0]}")/../samples

# --retry waits for Retry-After seconds where the service says so; --fail-with-body prints the problem and exits with 22.
call() {
  curl --silent --show-error --fail-with-body --retry 3 --max-time 30 \
    ${ITEMLENS_API_KEY:+-H "X-API-Key: $ITEMLENS_API_KEY"} "$@"
  echo
}

# A photo with its title: the form takes the file as it is.
echo "== classify"
call "$url/v1/classify" -F image=@"$samples/grey-tshirt.jpg" -F text='Puma Men Grey T-shirt' \
  -F attributes=articleType -F attributes=baseColour -F top_k=2

# Several items are JSON. The second one is empty: it fails alone, with its own problem, and the answer is still 200.
echo "== batch"
photo=$(base64 < "$samples/black-shoe.jpg" | tr -d '\n')
printf '{"items": [{"id": "sku-1", "image": "%s"}, {"id": "sku-2"}], "attributes": ["masterCategory"], "top_k": 1}' "$photo" |
  call "$url/v1/classify" -H 'Content-Type: application/json' --data-binary @-

# A vector of a title, to search an index of photo vectors with; `dimensions` cuts it to one of the model's lengths.
echo "== embed"
call "$url/v1/embed" -H 'Content-Type: application/json' -d '{"items": [{"text": "black sports shoes"}], "dimensions": 32}'

# A refusal is a problem document: branch on its `code`.
echo "== refusal"
call "$url/v1/classify" -H 'Content-Type: application/json' -d '{"items": [{}]}' || true
