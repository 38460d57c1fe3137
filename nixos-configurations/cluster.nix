# The reference cluster, written once.
{
  name = "reference";
  subnet = "10.20.0.0/24";
  nodes = {
    node01 = {
      role = "control-plane";
      address = "10.20.0.11";
    };
    node02 = {
      role = "control-plane";
      address = "10.20.0.12";
    };
    node03 = {
      role = "control-plane";
      address = "10.20.0.13";
    };
  };
}
