// The developer's panel of a local stack.

export default function Panel() {
  return null;
}
