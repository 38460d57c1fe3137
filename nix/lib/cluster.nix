# A cluster, written once: nodes, roles, addresses, install plans, desired systems. `state` is what the deployer
# (`bootproof deployer serve --cluster FILE`) and the lanes read; its schema is schemas/cluster-state.schema.json.
let
  all = builtins.attrNames;
  inherit (builtins)
    concatMap
    filter
    elem
    length
    ;
  list = names: builtins.concatStringsSep ", " (map (name: "`${name}`") names);

  # Octets of an IPv4 address; null where the text is none.
  octets =
    text:
    let
      matched = builtins.match "([0-9]{1,3})\\.([0-9]{1,3})\\.([0-9]{1,3})\\.([0-9]{1,3})" text;
      # fromJSON knows no leading zeros, and neither do addresses.
      number =
        digits: if builtins.match "0|[1-9][0-9]*" digits == null then 256 else builtins.fromJSON digits;
      numbers = map number matched;
    in
    if matched == null || builtins.any (octet: octet > 255) numbers then null else numbers;
  value = builtins.foldl' (sum: octet: sum * 256 + octet) 0;
  power = exponent: if exponent == 0 then 1 else 2 * power (exponent - 1);

  subnetOf =
    text:
    let
      matched = builtins.match "([0-9.]+)/([0-9]{1,2})" text;
      address = octets (builtins.elemAt matched 0);
      prefix = builtins.fromJSON (builtins.elemAt matched 1);
      size = power (32 - prefix);
    in
    if matched == null || address == null || prefix < 8 || prefix > 28 then
      null
    else
      {
        first = value address / size * size;
        inherit size;
      };

  roles = [
    "control-plane"
    "worker"
    "client"
  ];
  nodeKeys = [
    "role"
    "address"
    "class"
    "match"
    "desired_system"
  ];
  clusterKeys = [
    "name"
    "subnet"
    "nodes"
    "classes"
    "systems"
    "binary_cache"
    "allow_unauthenticated"
    "tokens"
    "default_class"
  ];

  # Sentences about what is wrong; none, where the cluster is sound.
  problemsOf =
    cluster:
    let
      nodes = cluster.nodes or { };
      classes = cluster.classes or { };
      systems = cluster.systems or { };
      subnet = subnetOf (cluster.subnet or "");
      classOf = node: node.class or node.role or "";
      unknown =
        what: known: given:
        map (key: "${what} has the unknown key `${key}`; known are ${list known}") (
          filter (key: !(elem key known)) (all given)
        );
      twice =
        what: of:
        concatMap (
          name:
          let
            same = filter (other: of nodes.${other} == of nodes.${name}) (all nodes);
          in
          if of nodes.${name} != null && builtins.head same == name && length same > 1 then
            [ "the nodes ${list same} have the same ${what}, `${of nodes.${name}}`: give each its own" ]
          else
            [ ]
        ) (all nodes);
      ofNode =
        name:
        let
          node = nodes.${name};
          address = octets (node.address or "");
          say = text: "node `${name}`: ${text}";
        in
        unknown "node `${name}`" nodeKeys node
        ++ (
          if builtins.match "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?" name == null then
            [ (say "a node's name has lower-case letters, digits and hyphens, and is its host name") ]
          else
            [ ]
        )
        ++ (
          if !(node ? role) then
            [ (say "it has no `role`; roles are ${list roles}") ]
          else if !(elem node.role roles) then
            [ (say "there is no role `${node.role}`; roles are ${list roles}") ]
          else
            [ ]
        )
        ++ (
          if !(node ? address) then
            [ (say "it has no `address`") ]
          else if address == null then
            [ (say "`${node.address}` is not an IPv4 address") ]
          else if subnet == null then
            [ ]
          else if value address <= subnet.first + 1 || value address >= subnet.first + subnet.size - 1 then
            [
              (say "`${node.address}` is no node's address in `${cluster.subnet}` (the first address there is the host's, the last is for broadcasts)")
            ]
          else
            [ ]
        )
        ++ (
          if classes != { } && !(classes ? ${classOf node}) then
            [ (say "there is no class `${classOf node}`; classes are ${list (all classes)}") ]
          else
            [ ]
        )
        ++ (
          if node ? desired_system && !(systems ? ${node.desired_system}) then
            [ (say "there is no system `${node.desired_system}`; systems are ${list (all systems)}") ]
          else
            [ ]
        );
      ofClass =
        name:
        if classes.${name} ? desired_system && !(systems ? ${classes.${name}.desired_system}) then
          [
            "class `${name}`: there is no system `${classes.${name}.desired_system}`; systems are ${list (all systems)}"
          ]
        else
          [ ];
      controlPlane = filter (name: (nodes.${name}.role or "") == "control-plane") (all nodes);
    in
    unknown "the cluster" clusterKeys cluster
    ++ (if cluster ? name then [ ] else [ "the cluster has no `name`" ])
    ++ (
      if !(cluster ? subnet) then
        [ "the cluster has no `subnet`, such as `10.20.0.0/24`" ]
      else if subnet == null then
        [ "`${cluster.subnet}` is not an IPv4 network with a prefix from 8 to 28, such as `10.20.0.0/24`" ]
      else
        [ ]
    )
    ++ (if nodes == { } then [ "the cluster has no nodes" ] else [ ])
    ++ concatMap ofNode (all nodes)
    ++ concatMap ofClass (all classes)
    ++ twice "address" (node: node.address or null)
    ++ twice "serial number" (node: node.match.serial or null)
    ++ twice "node id" (node: node.match.node_id or null)
    ++ twice "MAC address" (node: node.match.mac or null)
    ++ (
      if nodes != { } && controlPlane == [ ] then
        [ "no node has the role `control-plane`" ]
      else if nodes != { } && length controlPlane / 2 * 2 == length controlPlane then
        [
          "${toString (length controlPlane)} nodes have the role `control-plane`: an even number survives no more losses than one node fewer; take ${
            toString (length controlPlane - 1)
          } or ${toString (length controlPlane + 1)}"
        ]
      else
        [ ]
    );

  only =
    keys: set:
    builtins.listToAttrs (
      map (name: {
        inherit name;
        value = set.${name};
      }) (filter (name: set ? ${name}) keys)
    );
in
{
  inherit problemsOf;

  # mkCluster { name; subnet; nodes; classes; systems; } -> { state, json }; an unsound cluster is an evaluation error that
  # says all that is wrong with it.
  #
  #   nodes    by name: { role; address; class ? role; match ? { serial, mac, node_id }; desired_system ? the class's; }
  #   classes  install plans, as in the deployer's configuration: disk, wipe, layout, bundle or configuration, ...
  #   systems  what an installed node shall run: store_path, bundle or folder, and health_check
  mkCluster =
    cluster:
    let
      problems = problemsOf cluster;
      nodes = cluster.nodes;
      class = name: nodes.${name}.class or nodes.${name}.role;
      state = {
        version = 1;
        inherit (cluster) name subnet;
        nodes = builtins.mapAttrs (name: node: {
          inherit (node) role address;
        }) nodes;
        deployer = {
          version = 1;
          nodes = builtins.mapAttrs (
            name: node:
            {
              class = class name;
              # Virtual machines have their name for a serial number, and so can be told apart without more.
              match = node.match or { serial = name; };
            }
            // only [ "desired_system" ] node
          ) nodes;
        }
        // only [
          "classes"
          "systems"
          "binary_cache"
          "allow_unauthenticated"
          "tokens"
          "default_class"
        ] cluster;
      };
    in
    if problems != [ ] then
      throw "the cluster `${cluster.name or "?"}` is not sound:\n${
        builtins.concatStringsSep "\n" (map (problem: "  - ${problem}") problems)
      }"
    else
      {
        inherit state;
        json = builtins.toJSON state;
      };
}
